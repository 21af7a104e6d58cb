#include "checkpoint/safetensors_source.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "checkpoint/companions.h"
#include "checkpoint/convert.h"
#include "checkpoint/float8.h"
#include "checkpoint/read_tiles.h"
#include "checkpoint/reading_note.h"
#include "checkpoint/stored_entry.h"
#include "checkpoint/weight_files.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/files/model_file.h"
#include "families/config/config_reader.h"
#include "families/config/generation_config.h"
#include "families/config/read_model_config.h"
#include "families/config/text_model.h"
#include "families/registry.h"
#include "formats/safetensors.h"
#include "formats/tensor_bounds.h"
#include "formats/text.h"
#include "kernels/weight_matrix.h"
#include "layouts/config/code_names.h"
#include "layouts/config/labels.h"
#include "layouts/config/read_config.h"
#include "layouts/stored_layout.h"
#include "pack/native.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kCompanionLimit = uint64_t{256} << 20;

class SafetensorsSource : public ModelSource {
 public:
  explicit SafetensorsSource(const std::string& path) {
    path_ = path;
    const bool folder = is_folder(path);
    const fs::path place = folder ? fs::path(path) : fs::path(path).parent_path();
    folder_ = place.empty() ? std::string(".") : place.string();
    const std::string config_path = (fs::path(folder_) / "config.json").string();
    model_folder_ = std::make_unique<ModelFolder>(folder_);
    if (model_folder_->folder().status("config.json").kind == FileKind::kNone) {
      throw FormatError(fmt::format(
          "{}: expected a config.json beside the weights, found none; copy it from the model's repository", folder_));
    }
    json config = read_json_object(config_path, warnings_);
    const json architectures = config.value("architectures", json());
    const bool wrapped = unwrap_text_config(config, config_path, warnings_);
    family_ = &find_family(config, config_path);
    compare_architectures(architectures, *family_, config_path, warnings_);
    config_ = read_model_config(config, *family_, config_path);
    if (wrapped) {
      // Other engines have other defaults for a text model of its own.
      for (const auto& [key, value] : family_->defaults) config.emplace(key, value);
    }
    packed_ = read_packed_config(config, config_path, folder_, warnings_);
    format_ = packed_.layout != nullptr ? packed_.layout->name() : "safetensors";
    config_json_ = std::make_shared<json>(std::move(config));
    read_generation_config(*model_folder_, folder_, config_, warnings_);
    warn_of_ids(folder_, config_);
    choose_files(folder);
    with_note(reading_note_, [&] {
      open_files(folder);
      collect(wrapped);
      settle_labels();
      settle_contradictions();
    });
    for (const std::string& name : companion_names(*model_folder_, folder)) {
      const std::string path_of_it = model_folder_->folder().path_of(name);
      companions_.emplace_back(name, status_of(model_folder_->open(name), path_of_it).identity);
    }
  }

  std::vector<CheckpointTensor> tensors() const override { return describe(entries_, packed_, format_, reasons_); }
  std::vector<CheckpointTensor> left_out() const override { return describe(left_out_, packed_, format_, reasons_); }
  bool has(const std::string& name) const override { return entries_.count(name) > 0; }

  OwnedTensor load_stored(const std::string& name) const override {
    return with_note(reading_note_, [&] { return read_stored(name); });
  }
  Matrix load(const std::string& name, int64_t first_row, int64_t rows) const override {
    return with_note(reading_note_, [&] { return read_rows(name, first_row, rows); });
  }
  std::optional<QuantizedTensor> load_quantized(const std::string& name) const override {
    return with_note(reading_note_, [&]() -> std::optional<QuantizedTensor> {
      const StoredEntry& e = get(name);
      if (e.plain() || has_q_scale(e)) return std::nullopt;
      QuantizedTensor q = checked(e, [&] { return codes(name, e); });
      if (!q.group_index.empty()) return std::nullopt;
      return q;
    });
  }

  std::optional<StoredCodes> load_codes(const std::string& name, Codes with) const override {
    return with_note(reading_note_, [&]() -> std::optional<StoredCodes> {
      const StoredEntry& e = get(name);
      if (e.plain()) return std::nullopt;
      return checked(e, [&] { return StoredCodes{codes(name, e, with), read_q_scale(e.packed, e.shape[1], name)}; });
    });
  }

  std::unique_ptr<WeightMatrix> load_blocks(const std::string& name, int64_t first_row, int64_t rows) const override {
    return with_note(reading_note_, [&]() -> std::unique_ptr<WeightMatrix> {
      const StoredEntry& e = get(name);
      if (e.plain()) return nullptr;
      check_rows(name, first_row, rows, e.shape[0]);
      return checked(e, [&] { return read_tiles(packed_, e.packed, e.file->path() + ": " + name, first_row, rows); });
    });
  }

  std::optional<CodeForm> code_form(const std::string& name) const override {
    return with_note(reading_note_, [&]() -> std::optional<CodeForm> {
      const StoredEntry& e = get(name);
      if (e.plain()) return std::nullopt;
      const int64_t group = group_size_of(packed_, e.packed, e.file->path() + ": " + name);
      return CodeForm{.bits = e.packed.bits, .group = group < 0 ? e.shape[1] : group, .zeros = true};
    });
  }

  void check_unchanged() const override {
    for (const auto& file : files_) file->check_unchanged();
  }

  void release(const std::string& name) const override {
    const auto it = entries_.find(name);
    if (it == entries_.end()) return;
    for (const TensorView* part : it->second.parts()) {
      if (part != nullptr) it->second.file->release(*part);
    }
  }

  const Tokenizer& tokenizer() const override {
    std::call_once(tokenizer_once_, [&] {
      try {
        tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_folder(folder_, config_.vocab_size));
      } catch (...) {
        rethrow_as_error(path_.c_str());  // names the model
      }
    });
    return *tokenizer_;
  }

  std::vector<CompanionFile> companion_files() const override {
    std::vector<CompanionFile> out;
    for (const auto& [name, identity] : companions_) {
      out.push_back(
          {name, identity.size, [this, name = name, identity = identity] { return read_companion(name, identity); }});
    }
    return out;
  }

  Digest digest() const override {
    Digester digester;
    digester.add_text(config_json_->dump());
    for (const auto& file : files_) add_file(digester, file->mapped());
    for (const auto& [name, e] : entries_) {
      for (const TensorView* part : e.parts()) {
        if (part == nullptr) continue;
        add_header(digester, name, dtype_name(part->dtype), part->shape);
        add_sample(digester, part->bytes);
      }
      release(name);
    }
    check_unchanged();
    for (const std::string& name : determining_files(*model_folder_)) {
      const auto companion = std::find_if(companions_.begin(), companions_.end(),
                                          [&, &wanted = name](const auto& c) { return c.first == wanted; });
      if (companion == companions_.end()) continue;  // came after the model was opened: no part of it
      digester.add_text(read_companion(name, companion->second));
    }
    return digester.result();
  }

 protected:
  void leave_out(const std::string& name, const std::string& reason) override {
    left_out_.insert(entries_.extract(name));
    if (!reason.empty()) reasons_[name] = reason;
  }

  int64_t first_not_finite(const std::string& name) const override {
    const StoredEntry& e = get(name);
    return checked(e, [&] { return first_not_finite(name, e); });
  }

  std::string files_read(const std::string& missing) const override {
    constexpr size_t kNamed = 4;
    std::string out;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (i == kNamed) {
        out += fmt::format(" and {} more files", files_.size() - kNamed);
        break;
      }
      out += (i > 0 ? ", " : "") + escaped(fs::path(files_[i]->path()).filename().string());
    }
    if (const auto it = placed_.find(missing); it != placed_.end())
      return fmt::format("{} (the index places it in {}, which lacks it; download that file again)", out,
                         escaped(it->second));
    const std::string name = fs::path(path_).filename().string();
    if (files_.size() == 1 && shards_by_name(name) > 1)
      return fmt::format("{} (one of {}: name the folder that holds all)", out, counted(shards_by_name(name), "shard"));
    if (const std::string part = quantized_part(stored_name(missing), files_); !part.empty())
      return fmt::format("{}, which holds {}: a part of a quantized linear without its codes", out, escaped(part));
    return out;
  }

 private:
  OwnedTensor read_stored(const std::string& name) const {
    const StoredEntry& e = get(name);
    if (!e.plain() || e.scale.values != nullptr)
      return checked(e, [&] {
        OwnedTensor half = to_f16(e.file->path() + ": tensor " + escaped(name), e.shape, load(name, 0, -1));
        half.name = name;
        return half;
      });
    if (e.main->dtype != DType::kF32 && e.main->dtype != DType::kF16 && e.main->dtype != DType::kBF16) {
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", e.file->path(),
                                         escaped(name), dtype_name(e.main->dtype)));
    }
    return checked(e, [&] {
      OwnedTensor t{name, e.main->dtype, e.shape, Buffer(e.main->bytes.size())};
      if (!e.main->bytes.empty()) std::memcpy(t.bytes.data(), e.main->bytes.data(), t.bytes.size());
      return t;
    });
  }

  Matrix read_rows(const std::string& name, int64_t first_row, int64_t rows) const {
    const StoredEntry& e = get(name);
    const auto [all, columns] = matrix_shape(e.shape, name, e.file->path());
    if (rows < 0) rows = all - first_row;
    check_rows(name, first_row, rows, all);
    return checked(e, [&, columns = columns] { return read(name, e, first_row, rows, columns); });
  }

  // The first element of the tensor that is not finite, -1 where all are.
  int64_t first_not_finite(const std::string& name, const StoredEntry& e) const {
    if (!e.plain()) {
      static_cast<void>(codes(name, e, Codes::kSkip));  // refuses scales that are not finite
      read_q_scale(e.packed, e.shape[1], e.file->path() + ": " + name);
      return -1;
    }
    if (e.scale.values != nullptr) {
      return first_not_finite_of(e.shape[0], e.shape[1],
                                 [&](int64_t first, int64_t rows, float* out) { float8_to_f32(e, first, rows, out); });
    }
    const DType type = e.main->dtype;
    if (type != DType::kF32 && type != DType::kF16 && type != DType::kBF16) return -1;  // refused where it is read
    return first_not_finite_of(e.main->elements(), 1, [&](int64_t first, int64_t count, float* out) {
      to_f32(*e.main, e.file->path(), first, count, out);
    });
  }

  // The content of a companion, as it was when the model was opened.
  std::string read_companion(const std::string& name, const FileIdentity& identity) const {
    const std::string path = model_folder_->folder().path_of(name);
    const UniqueFd fd = model_folder_->open(name);
    if (status_of(fd, path).identity != identity) {
      throw SystemError(fmt::format(
          "{}: changed since the model was opened; put the file back as it was, or start again with the new one",
          path));
    }
    return read_text_file(fd, path, kCompanionLimit);
  }

  // What `read` makes of the tensor's mapped bytes. A file that changed meanwhile counts more than an error of `read`.
  template <typename Read>
  auto checked(const StoredEntry& e, const Read& read) const -> decltype(read()) {
    if (e.plain()) return e.file->mapped().checked(read);
    try {
      auto out = read();
      check_unchanged();  // the parts may lie in several files
      return out;
    } catch (const Error&) {
      check_unchanged();
      throw;
    }
  }

  Matrix read(const std::string& name, const StoredEntry& e, int64_t first_row, int64_t rows, int64_t columns) const {
    Matrix m(rows, columns);
    if (e.scale.values != nullptr) {
      float8_to_f32(e, first_row, rows, m.data());
      return m;
    }
    if (e.plain()) {
      to_f32(*e.main, e.file->path(), first_row * columns, rows * columns, m.data());
      return m;
    }
    if (packed_.layout->has_rows() && !has_q_scale(e) && rows > 0 && rows < e.shape[0]) {
      dequantize_rows(read_code_rows(packed_, e, first_row, rows, e.file->path() + ": " + name), 0, rows, m.data());
      return m;
    }
    const QuantizedTensor q = codes(name, e);
    dequantize_rows(q, first_row, rows, m.data());
    if (has_q_scale(e)) {
      const auto scale = unpack_q_scale(*e.packed.channels, columns, name);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < columns; ++k) m(r, k) /= scale[static_cast<size_t>(k)];
      }
    }
    return m;
  }

  const StoredEntry& get(const std::string& name) const {
    const auto it = entries_.find(name);
    if (it == entries_.end())
      throw FormatError(fmt::format("{}: tensor {} is missing from {}", path_, escaped(name), files_read(name)));
    return it->second;
  }

  QuantizedTensor codes(const std::string& name, const StoredEntry& e, Codes with = Codes::kRead) const {
    return read_packed(packed_, e.packed, e.file->path() + ": " + name, with);
  }
  bool has_q_scale(const StoredEntry& e) const {
    return e.packed.channels != nullptr && e.packed.names->channel_part == ChannelPart::kScale;
  }

  void choose_files(bool folder) {
    if (!folder) return;  // named by the user
    WeightFiles chosen = find_weight_files(folder_);
    reading_note_ = std::move(chosen.note);
    names_ = std::move(chosen.names);
    index_ = std::move(chosen.index);
    placed_ = std::move(chosen.placed);
    warnings_.insert(warnings_.end(), chosen.warnings.begin(), chosen.warnings.end());
  }

  void open_files(bool folder) {
    if (!folder) files_.push_back(std::make_unique<SafetensorsFile>(path_));  // the user may name a link
    size_t tensors = 0;
    for (const std::string& name : names_) {
      files_.push_back(std::make_unique<SafetensorsFile>(map_model_file((fs::path(folder_) / name).string())));
      tensors += files_.back()->tensors().size();
      if (tensors > kMostTensors) {
        throw FormatError(fmt::format("{}: expected at most {} in all files of a model, found more",
                                      files_.back()->path(), counted(kMostTensors, "tensor")));
      }
    }
  }

  // The same tensor in two files, or under two names: harmless where it is the same indeed.
  void settle_duplicate(const std::string& name, const StoredEntry& a, const StoredEntry& b) {
    const bool same = a.main->dtype == b.main->dtype && a.shape == b.shape && checked(a, [&] {
                        return checked(b, [&] { return std::ranges::equal(a.main->bytes, b.main->bytes); });
                      });
    a.file->release(*a.main);
    b.file->release(*b.main);
    if (!same) {
      throw FormatError(
          fmt::format("{}: tensor {} stands in {} too, and the two differ: nothing says which of them belongs to the "
                      "model; remove the file that does not, or download the model again",
                      b.file->path(), escaped(name), a.file->path()));
    }
    if (duplicates_++ == 0)
      first_duplicate_ = fmt::format("{} in {} and {}", escaped(name), fs::path(a.file->path()).filename().string(),
                                     fs::path(b.file->path()).filename().string());
  }

  // GPTQ and AWQ: config against tensors.
  void settle_labels() {
    std::vector<NamedLinear> linears;
    for (auto& [name, e] : entries_) {
      if (!e.plain()) linears.push_back({e.file->path() + ": " + escaped(name), module_of(name, ".weight"), &e.packed});
    }
    const auto found = metal_marlin::settle_labels(packed_, *config_json_, linears, path_);
    check_unchanged();
    warnings_.insert(warnings_.end(), found.begin(), found.end());
    if (packed_.layout != nullptr) format_ = packed_.layout->name();
  }

  void collect(bool wrapped) {
    std::map<std::string, StoredEntry> raw;
    for (const auto& file : files_) {
      for (const TensorView& view : file->tensors()) {
        StoredEntry e;
        e.file = file.get();
        e.main = &view;
        e.shape = view.shape;
        const std::string name = wrapped ? text_tensor_name(view.name) : view.name;
        const auto [it, fresh] = name.empty() ? left_out_.emplace(view.name, e) : raw.emplace(name, e);
        if (!fresh) settle_duplicate(view.name, it->second, e);
      }
    }
    if (duplicates_ > 0) {
      warnings_.push_back(fmt::format("{}: {} {} stored twice with the same values, the first: {}", path_,
                                      counted(duplicates_, "tensor"), form_for(duplicates_, "is", "are"),
                                      first_duplicate_));
    }
    if (!index_.empty()) compare_with_index((fs::path(folder_) / index_).string(), placed_, files_, warnings_);
    std::map<std::string, std::string> file_of;
    for (const auto& [name, e] : raw) file_of.emplace(name, e.file->path());
    if (packed_.layout == nullptr) settle_self_described(file_of);
    refuse_unlabelled_codes(packed_, file_of, (fs::path(folder_) / "config.json").string());
    if (const auto lone = parts_without_codes(packed_, file_of); !lone.empty())
      throw FormatError(fmt::format("{}: tensor {} is missing from {}; other parts of the linear are there", path_,
                                    escaped(lone), files_read(lone)));
    bool packed = false;
    bool float8 = false;
    for (auto& [name, e] : raw) {
      if (const PartNames* parts = names_of_codes(packed_, name, e, raw)) {
        packed = true;
        add_packed(name, e, *parts, raw);
      } else if (!is_part(packed_, name, raw) && !is_float_scale(name, raw, packed_)) {
        find_float_scale(name, raw, packed_, e);
        float8 = float8 || e.scale.values != nullptr;
        if (!entries_.emplace(name, e).second) {
          throw FormatError(
              fmt::format("{}: tensor {} is there twice: as it is and in 4 bits", e.file->path(), escaped(name)));
        }
      }
    }
    if ((packed_.layout != nullptr || packed_.float8) && !packed) {
      if (!float8) warnings_.push_back(label_without_codes(packed_));
      packed_ = {};
      format_ = "safetensors";
      config_json_->erase("quantization_config");
    }
    compare_with_metadata(packed_, metadata_, warnings_);
  }

  // Tensors that say all of themselves need no config.
  void settle_self_described(const std::map<std::string, std::string>& file_of) {
    packed_.layout = self_described(file_of);
    if (packed_.layout == nullptr) return;
    packed_.file = (fs::path(folder_) / "config.json").string();
    format_ = packed_.layout->name();
  }

  void add_packed(const std::string& name, const StoredEntry& codes, const PartNames& parts,
                  const std::map<std::string, StoredEntry>& raw) {
    const StoredLayout& layout = *packed_.layout;
    const std::string module = module_of(name, parts.codes);
    StoredEntry e = codes;
    e.packed.codes = e.main;
    if (const std::string missing = set_parts(module, parts, raw, e.packed); !missing.empty()) {
      throw FormatError(fmt::format("{}: tensor {} is missing from {}; the linear's codes are there", path_,
                                    escaped(missing), files_read(missing)));
    }
    const std::string where = fmt::format("{}: tensor {}", e.file->path(), name);
    if (const FileMetadata* metadata = metadata_of(*codes.file)) {
      e.packed.bits = metadata->bits_of(module + ".weight");
      e.packed.group_size = metadata->group_size_of(module + ".weight");
    } else {
      layout.describe(packed_, module, where, e.packed);
    }
    e.shape = layout.logical_shape(e.packed, where);
    if (!entries_.emplace(module + ".weight", std::move(e)).second) {
      throw FormatError(
          fmt::format("{}: tensor {}.weight is there twice: as it is and in 4 bits", path_, escaped(module)));
    }
  }

  // Null where the layout has no such metadata.
  const FileMetadata* metadata_of(const SafetensorsFile& file) {
    const auto it = metadata_.find(&file);
    if (it != metadata_.end()) return &it->second;
    auto metadata = packed_.layout->read_metadata(file.metadata(), file.path());
    return metadata ? &metadata_.emplace(&file, std::move(*metadata)).first->second : nullptr;
  }

  std::string folder_;
  std::unique_ptr<ModelFolder> model_folder_;
  std::vector<std::pair<std::string, FileIdentity>> companions_;  // as they were when the model was opened
  std::vector<std::string> names_;                                // of the weight files in the folder
  std::string index_;                                             // its name in the folder; empty: none was read
  size_t duplicates_ = 0;
  std::string first_duplicate_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, StoredEntry> entries_;
  std::map<std::string, StoredEntry> left_out_;
  std::map<std::string, std::string> reasons_;  // why a tensor was left out
  std::map<std::string, std::string> placed_;   // of the index: tensor -> file
  PackedConfig packed_;
  std::map<const SafetensorsFile*, FileMetadata> metadata_;
  mutable std::once_flag tokenizer_once_;
  mutable std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

std::unique_ptr<ModelSource> open_safetensors_source(const std::string& path) {
  return std::make_unique<SafetensorsSource>(path);
}

}  // namespace metal_marlin
