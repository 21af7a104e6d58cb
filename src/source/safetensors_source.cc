#include "source/safetensors_source.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/machine.h"
#include "formats/safetensors.h"
#include "pack/awq_gemm.h"
#include "pack/native.h"
#include "source/config_reader.h"
#include "source/convert.h"
#include "source/text_model.h"
#include "source/tokenizer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "generation_config.json",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "tokenizer.model"};
constexpr uint64_t kCompanionLimit = uint64_t{256} << 20;

enum class Layout : uint8_t { kPlain, kAwq, kNative };

// Where a logical tensor lies.
struct Entry {
  Layout layout = Layout::kPlain;
  const SafetensorsFile* file = nullptr;
  const TensorView* main = nullptr;  // the tensor, or its codes
  const TensorView* scales = nullptr;
  const TensorView* zeros = nullptr;
  const TensorView* q_scale = nullptr;
  std::vector<int64_t> shape;
};

class SafetensorsSource : public ModelSource {
 public:
  explicit SafetensorsSource(const std::string& path) {
    path_ = path;
    const bool folder = fs::is_directory(path);
    folder_ = folder ? path : fs::path(path).parent_path().string();
    if (folder_.empty()) folder_ = ".";
    const std::string config_path = (fs::path(folder_) / "config.json").string();
    if (!fs::exists(config_path)) {
      throw FormatError(fmt::format(
          "{}: expected a config.json beside the weights, found none; copy it from the model's repository", folder_));
    }
    json config = read_json_object(config_path);
    const bool wrapped = unwrap_text_config(config, config_path);
    family_ = &find_family(config, config_path);
    config_ = read_model_config(config, *family_, config_path);
    if (wrapped) {
      // Other engines have other defaults for a text model of its own.
      for (const auto& [key, value] : family_->defaults) config.emplace(key, value);
    }
    config_json_ = std::make_shared<json>(std::move(config));
    read_generation_config();
    open_files(folder);
    read_quantization(config_path);
    collect(wrapped);
  }

  std::vector<CheckpointTensor> tensors() const override { return describe(entries_); }
  std::vector<CheckpointTensor> left_out() const override { return describe(left_out_); }
  bool has(const std::string& name) const override { return entries_.count(name) > 0; }

  OwnedTensor load_stored(const std::string& name) const override {
    const Entry& e = get(name);
    if (e.layout != Layout::kPlain) return to_f16(name, e.shape, load(name, 0, -1));
    if (e.main->dtype != DType::kF32 && e.main->dtype != DType::kF16 && e.main->dtype != DType::kBF16) {
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", e.file->path(), name,
                                         dtype_name(e.main->dtype)));
    }
    OwnedTensor t{name, e.main->dtype, e.shape, Buffer(e.main->bytes.size())};
    if (!e.main->bytes.empty()) std::memcpy(t.bytes.data(), e.main->bytes.data(), t.bytes.size());
    return t;
  }

  Matrix load(const std::string& name, int64_t first_row, int64_t rows) const override {
    const Entry& e = get(name);
    const auto [all, columns] = matrix_shape(e.shape, name, e.file->path());
    if (rows < 0) rows = all - first_row;
    check_rows(name, first_row, rows, all);
    Matrix m(rows, columns);
    if (e.layout == Layout::kPlain) {
      to_f32(*e.main, e.file->path(), first_row * columns, rows * columns, m.data());
      return m;
    }
    const QuantizedTensor q = codes(name, e);
    dequantize_rows(q, first_row, rows, m.data());
    if (e.q_scale != nullptr) {
      const auto scale = unpack_q_scale(*e.q_scale, columns, name);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < columns; ++k) m(r, k) /= scale[static_cast<size_t>(k)];
      }
    }
    return m;
  }

  std::optional<QuantizedTensor> load_quantized(const std::string& name) const override {
    const Entry& e = get(name);
    if (e.layout == Layout::kPlain || e.q_scale != nullptr) return std::nullopt;
    return codes(name, e);
  }

  void release(const std::string& name) const override {
    const auto it = entries_.find(name);
    if (it == entries_.end()) return;
    for (const TensorView* part : {it->second.main, it->second.scales, it->second.zeros, it->second.q_scale}) {
      if (part != nullptr) it->second.file->release(*part);
    }
  }

  const Tokenizer& tokenizer() const override {
    std::call_once(tokenizer_once_, [&] { tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_folder(folder_)); });
    return *tokenizer_;
  }

  std::vector<std::pair<std::string, std::string>> companion_files() const override {
    std::vector<std::pair<std::string, std::string>> out;
    for (const char* name : kCompanions) {
      const std::string path = (fs::path(folder_) / name).string();
      if (fs::is_regular_file(path)) out.emplace_back(name, read_text_file(path, kCompanionLimit));
    }
    return out;
  }

  uint64_t digest() const override {
    const std::string config = config_json_->dump();
    uint64_t h = fnv1a(config.data(), config.size());
    for (const auto& file : files_) h = digest_file(file->path(), h);
    for (const auto& [name, e] : entries_) {
      for (const TensorView* part : {e.main, e.scales, e.zeros, e.q_scale}) {
        if (part == nullptr) continue;
        h = digest_header(name, dtype_name(part->dtype), part->shape, h);
        h = digest_sample(part->bytes, h);
      }
      release(name);
    }
    for (const auto& [name, text] : companion_files()) h = fnv1a(text.data(), text.size(), h);
    return h;
  }

 private:
  const Entry& get(const std::string& name) const {
    const auto it = entries_.find(name);
    if (it == entries_.end()) throw FormatError(fmt::format("{}: tensor {} is missing", path_, name));
    return it->second;
  }

  std::vector<CheckpointTensor> describe(const std::map<std::string, Entry>& entries) const {
    std::vector<CheckpointTensor> out;
    for (const auto& [name, e] : entries) {
      CheckpointTensor t;
      t.name = name;
      t.shape = e.shape;
      t.stored_as = e.layout == Layout::kPlain ? std::string(dtype_name(e.main->dtype)) : format_;
      for (const TensorView* part : {e.main, e.scales, e.zeros, e.q_scale}) {
        if (part != nullptr) t.bytes += part->bytes.size();
      }
      t.file = fs::path(e.file->path()).filename().string();
      out.push_back(std::move(t));
    }
    return out;
  }

  QuantizedTensor codes(const std::string& name, const Entry& e) const {
    const std::string label = e.file->path() + ": " + name;
    return e.layout == Layout::kAwq ? unpack_awq_gemm(*e.main, *e.zeros, *e.scales, group_size_, label)
                                    : unpack_native(*e.main, *e.scales, *e.zeros, group_size_, label);
  }

  void read_generation_config() {
    const std::string path = (fs::path(folder_) / "generation_config.json").string();
    if (!fs::is_regular_file(path)) return;
    const json j = read_json_object(path);
    for (const int64_t id : ConfigReader(j, path).find_ints("eos_token_id", -1, kLargestSize)) {
      const auto token = static_cast<int32_t>(id);
      auto& ids = config_.eos_token_ids;
      if (token >= 0 && std::find(ids.begin(), ids.end(), token) == ids.end()) ids.push_back(token);
    }
  }

  void open_files(bool folder) {
    if (!folder) {
      files_.push_back(std::make_unique<SafetensorsFile>(path_));
      return;
    }
    std::vector<fs::path> weights;
    std::vector<fs::path> indices;
    for (const std::string& name : names_in_folder(folder_)) {
      if (name.ends_with(".safetensors")) weights.push_back(fs::path(folder_) / name);
      if (name.ends_with(".safetensors.index.json")) indices.push_back(fs::path(folder_) / name);
    }
    // As transformers chooses: the one file of this name, else the index of this name. Folders also hold adapters,
    // the same weights under the publisher's own names, and the like.
    for (const auto& [all, preferred] :
         {std::pair{&weights, "model.safetensors"}, {&indices, "model.safetensors.index.json"}}) {
      const auto it =
          std::find_if(all->begin(), all->end(), [&](const fs::path& p) { return p.filename() == preferred; });
      if (it == all->end()) continue;
      *all = {*it};
      if (all == &weights) indices.clear();
    }
    if (indices.size() > 1)
      throw FormatError(fmt::format("{}: expected one *.safetensors.index.json, found {}", folder_, indices.size()));
    if (indices.size() == 1) {
      // Opening them through the index checks that map and shards agree.
      const ShardedSafetensors sharded(indices.front().string());
      for (const std::string& name : sharded.index().files())
        files_.push_back(std::make_unique<SafetensorsFile>((fs::path(folder_) / name).string()));
      return;
    }
    if (weights.empty())
      throw FormatError(fmt::format("{}: expected *.safetensors files, found none; download the model again", folder_));
    for (const fs::path& p : weights) files_.push_back(std::make_unique<SafetensorsFile>(p.string()));
  }

  void read_quantization(const std::string& config_path) {
    format_ = "safetensors";
    const ConfigReader config(*config_json_, config_path);
    const auto q = config.find_object("quantization_config");
    if (!q) return;
    const std::string method = q->find_string("quant_method").value_or("");
    if (method == "awq") {
      const std::string version = q->find_string("version").value_or(q->find_string("format").value_or("gemm"));
      if (version != "gemm" && version != "GEMM") {
        throw UnsupportedError(
            fmt::format("{}: AWQ version \"{}\" is not supported; supported is gemm", config_path, version));
      }
      format_ = "awq";
    } else if (method == "metal_marlin") {
      format_ = "native";
    } else {
      throw UnsupportedError(fmt::format(
          "{}: quant_method \"{}\" is not supported; supported are awq (gemm) and metal_marlin", config_path, method));
    }
    const int64_t bits = q->find_int("bits", 1, 64).value_or(q->find_int("w_bit", 1, 64).value_or(4));
    if (bits != 4)
      throw UnsupportedError(fmt::format("{}: {} bits are not supported; supported are 4", config_path, bits));
    auto group = q->find_int("group_size", -1, kLargestSize);
    if (!group) group = q->find_int("q_group_size", -1, kLargestSize);
    if (!group || *group == 0) q->fail("group_size", "a positive integer or -1");
    group_size_ = *group;
  }

  void collect(bool wrapped) {
    std::map<std::string, Entry> raw;
    for (const auto& file : files_) {
      for (const TensorView& view : file->tensors()) {
        Entry e;
        e.file = file.get();
        e.main = &view;
        e.shape = view.shape;
        const std::string name = wrapped ? text_tensor_name(view.name) : view.name;
        const auto [it, fresh] = name.empty() ? left_out_.emplace(view.name, e) : raw.emplace(name, e);
        if (!fresh)
          throw FormatError(fmt::format("{}: tensor {} stands in {} too", file->path(), name, it->second.file->path()));
      }
    }
    for (const auto& [name, e] : raw) {
      if (format_ == "awq" && name.ends_with(".qweight")) {
        add_awq(name.substr(0, name.size() - std::strlen(".qweight")), e, raw);
      } else if (format_ == "native" && name.ends_with(".weight") &&
                 (e.main->dtype == DType::kU32 || raw.count(name + ".scales") > 0)) {
        add_native(name, e, raw);
      } else if (!is_part(name, raw)) {
        entries_.emplace(name, e);
      }
    }
    // Layers that the config does not count are no part of the model.
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto next = std::next(it);
      if (layer_of(it->first) >= config_.num_hidden_layers) left_out_.insert(entries_.extract(it));
      it = next;
    }
  }

  // The layer that a tensor belongs to, or -1.
  int64_t layer_of(const std::string& name) const {
    const std::string& prefix = family_->layer_prefix;
    if (!name.starts_with(prefix)) return -1;
    int64_t layer = -1;
    const auto [end, code] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
    return code == std::errc() && end != name.data() + name.size() && *end == '.' ? layer : -1;
  }

  bool is_part(const std::string& name, const std::map<std::string, Entry>& raw) const {
    if (format_ == "awq") {
      for (const char* suffix : {".qzeros", ".scales"}) {
        if (name.ends_with(suffix))
          return raw.count(name.substr(0, name.size() - std::strlen(suffix)) + ".qweight") > 0;
      }
    } else if (format_ == "native") {
      for (const char* suffix : {".weight.scales", ".weight.zeros", ".weight.q_scale"}) {
        if (name.ends_with(suffix)) return raw.count(name.substr(0, name.size() - std::strlen(suffix)) + ".weight") > 0;
      }
    }
    return false;
  }

  static const TensorView* part(const std::map<std::string, Entry>& raw, const std::string& name) {
    const auto it = raw.find(name);
    return it == raw.end() ? nullptr : it->second.main;
  }
  void demand_part(const TensorView* view, const std::string& name) const {
    if (view == nullptr)
      throw FormatError(fmt::format("{}: tensor {} is missing; the linear's codes are there", path_, name));
  }

  void add_awq(const std::string& module, const Entry& codes, const std::map<std::string, Entry>& raw) {
    Entry e = codes;
    e.layout = Layout::kAwq;
    e.zeros = part(raw, module + ".qzeros");
    e.scales = part(raw, module + ".scales");
    demand_part(e.zeros, module + ".qzeros");
    demand_part(e.scales, module + ".scales");
    if (e.main->shape.size() != 2) {
      throw FormatError(fmt::format("{}: tensor {}.qweight: expected two dimensions, found {}", e.file->path(), module,
                                    shape_string(e.main->shape)));
    }
    e.shape = {e.main->shape[1] * 8, e.main->shape[0]};
    entries_.emplace(module + ".weight", std::move(e));
  }

  void add_native(const std::string& name, const Entry& codes, const std::map<std::string, Entry>& raw) {
    Entry e = codes;
    e.layout = Layout::kNative;
    e.scales = part(raw, name + ".scales");
    e.zeros = part(raw, name + ".zeros");
    e.q_scale = part(raw, name + ".q_scale");
    const auto& metadata = e.file->metadata();
    const auto offset = metadata.find("metal_marlin.nibble_offset");
    if (offset == metadata.end()) {
      throw UnsupportedError(
          fmt::format("{}: no metal_marlin.nibble_offset in the metadata: a file of the original format, which this "
                      "version does not read",
                      e.file->path()));
    }
    if (offset->second != "8") {
      throw UnsupportedError(
          fmt::format("{}: metal_marlin.nibble_offset: expected 8, found {}", e.file->path(), offset->second));
    }
    demand_part(e.scales, name + ".scales");
    demand_part(e.zeros, name + ".zeros");
    if (e.main->shape.size() != 2) {
      throw FormatError(fmt::format("{}: tensor {}: expected two dimensions, found {}", e.file->path(), name,
                                    shape_string(e.main->shape)));
    }
    e.shape = {e.main->shape[1], e.main->shape[0] * 8};
    entries_.emplace(name, std::move(e));
  }

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, Entry> left_out_;
  int64_t group_size_ = 0;
  mutable std::once_flag tokenizer_once_;
  mutable std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

std::unique_ptr<ModelSource> open_safetensors_source(const std::string& path) {
  return std::make_unique<SafetensorsSource>(path);
}

}  // namespace metal_marlin
