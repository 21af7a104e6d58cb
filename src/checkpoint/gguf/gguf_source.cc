#include "checkpoint/gguf/gguf_source.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "checkpoint/convert.h"
#include "checkpoint/gguf/gguf_config.h"
#include "checkpoint/gguf/gguf_names.h"
#include "checkpoint/gguf/gguf_tokenizer_keys.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/files/model_file.h"
#include "core/half.h"
#include "core/threads.h"
#include "families/config/read_model_config.h"
#include "families/registry.h"
#include "families/tensor_names.h"
#include "formats/gguf.h"
#include "formats/gguf/gguf_set.h"
#include "formats/gguf/gguf_split.h"
#include "formats/gguf_blocks.h"
#include "formats/text.h"
#include "kernels/weight_matrix.h"
#include "pack/ggml_codes.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary/gguf_tokenizer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

struct Entry {
  const GgufTensor* tensor = nullptr;
  int64_t heads = 0;       // > 0: rows within each head stand in pairs, as the converter interleaves q and k of Llama
  bool minus_one = false;  // stored as 1 + weight
};

class GgufSource : public ModelSource {
 public:
  GgufSource(const std::string& path, const GgufSet::Map& map) : file_(path, map) {
    path_ = file_.path();
    format_ = "gguf";
    architecture_ = file_.metadata().get_string("general.architecture");
    if (file_.metadata().find_string("general.type").value_or("model") == "adapter") {
      throw FormatError(
          fmt::format("{}: expected a model, found a LoRA adapter (general.type \"adapter\"); merge it into its model "
                      "first: llama-export-lora",
                      path_));
    }
    settle_split();
    family_ = &find_family_of_gguf(architecture_, path_);
    config_json_ = std::make_shared<json>(gguf_config(file_, *family_, architecture_, warnings_));
    try {
      config_ = read_model_config(*config_json_, *family_, path_);
    } catch (const FormatError& e) {
      throw FormatError(gguf_keys_in(e.what(), architecture_));
    } catch (const UnsupportedError& e) {
      throw UnsupportedError(gguf_keys_in(e.what(), architecture_));
    }
    for (std::string& warning : config_.warnings) warning = gguf_keys_in(warning, architecture_);
    collect();
    settle_contradictions();
  }

  std::vector<CheckpointTensor> tensors() const override {
    std::vector<CheckpointTensor> out;
    for (const auto& [name, e] : entries_) {
      out.push_back({name, e.tensor->shape, std::string(ggml_type_info(e.tensor->type).name), e.tensor->bytes.size(),
                     file_name(*e.tensor)});
    }
    return out;
  }
  std::vector<CheckpointTensor> left_out() const override {
    std::vector<CheckpointTensor> out;
    std::unordered_set<const GgufTensor*> used;
    for (const auto& [name, e] : entries_) used.insert(e.tensor);
    for (const GgufTensor& t : file_.tensors()) {
      if (t.name.starts_with("rope_f") || used.count(&t) > 0) continue;
      out.push_back({t.name, t.shape, std::string(ggml_type_info(t.type).name), t.bytes.size(), file_name(t)});
      if (const auto reason = reasons_.find(&t); reason != reasons_.end()) out.back().reason = reason->second;
    }
    return out;
  }
  bool has(const std::string& name) const override { return entries_.count(name) > 0; }
  std::string stored_name(const std::string& name) const override {
    const auto it = gguf_names_.find(name);
    return it == gguf_names_.end() ? name : it->second;
  }
  std::string stored_key(const std::string& key) const override { return gguf_key(key, architecture_); }

  OwnedTensor load_stored(const std::string& name) const override {
    const Entry& e = get(name);
    const auto [rows, columns] = matrix_shape(e.tensor->shape, e.tensor->name, path_);
    const GgmlType type = e.tensor->type;
    const bool as_f32 = type == GgmlType::kF32 || e.minus_one;
    const DType dtype = as_f32 ? DType::kF32 : type == GgmlType::kBF16 ? DType::kBF16 : DType::kF16;
    OwnedTensor out{name, dtype, e.tensor->shape, Buffer(static_cast<size_t>(rows * columns) * dtype_size(dtype))};
    // In pieces, so that the f32 form of a large embedding never stands whole beside it.
    const int64_t piece = std::max<int64_t>(1, (int64_t{1} << 22) / std::max<int64_t>(columns, 1));
    for (int64_t first = 0; first < rows; first += piece) {
      const int64_t n = std::min(piece, rows - first);
      const Matrix m = load(name, first, n);
      if (as_f32) {
        std::memcpy(out.bytes.data() + first * columns * 4, m.data(), static_cast<size_t>(m.size()) * 4);
      } else if (dtype == DType::kF16) {
        const OwnedTensor half = to_f16(fmt::format("{}: tensor {}", path_, escaped(e.tensor->name)), {n, columns}, m);
        std::memcpy(out.bytes.data() + first * columns * 2, half.bytes.data(), half.bytes.size());
      } else {
        auto* bits = reinterpret_cast<uint16_t*>(out.bytes.data()) + first * columns;
        for (int64_t i = 0; i < m.size(); ++i) bits[i] = f32_to_bf16(m.data()[i]);
      }
    }
    return out;
  }

  Matrix load(const std::string& name, int64_t first_row, int64_t rows) const override {
    const Entry& e = get(name);
    const auto [all, columns] = matrix_shape(e.tensor->shape, e.tensor->name, path_);
    if (rows < 0) rows = all - first_row;
    check_rows(e.tensor->name, first_row, rows, all);
    return mapped(*e.tensor).checked(
        [&, columns = columns, all = all] { return read(e, first_row, rows, all, columns); });
  }

  std::optional<QuantizedTensor> load_quantized(const std::string& name) const override {
    get(name);
    return std::nullopt;  // ggml's blocks are another grid
  }

  std::optional<StoredCodes> load_codes(const std::string& name, Codes codes) const override {
    const Entry& e = get(name);
    const GgufTensor& tensor = *e.tensor;
    const auto grid = grid_of_type(tensor.type);
    if (!grid || grid->block || tensor.shape.size() != 2) return std::nullopt;
    const int64_t rows = tensor.shape[0];
    const auto row_bytes = static_cast<size_t>(tensor.row_bytes());
    const std::string where = fmt::format("{}: tensor {}", path_, escaped(tensor.name));
    return mapped(tensor).checked([&] {
      std::vector<std::byte> ordered;
      if (e.heads > 0) {
        ordered.resize(tensor.bytes.size());
        for (int64_t r = 0; r < rows; ++r) {
          const auto from = static_cast<size_t>(gguf_row(r, rows, e.heads)) * row_bytes;
          std::memcpy(ordered.data() + static_cast<size_t>(r) * row_bytes, tensor.bytes.data() + from, row_bytes);
        }
      }
      StoredCodes out;
      out.tensor = unpack_blocks_to_codes(tensor.type, rows, tensor.shape[1],
                                          e.heads > 0 ? std::span<const std::byte>(ordered) : tensor.bytes, where);
      if (codes == Codes::kSkip) out.tensor.codes.clear();
      return out;
    });
  }

  std::optional<CodeForm> code_form(const std::string& name) const override {
    const Entry& e = get(name);
    const auto codes = ggml_codes(e.tensor->type);
    if (!codes || e.tensor->shape.size() != 2) return std::nullopt;
    return CodeForm{.bits = codes->bits,
                    .group = codes->segment,
                    .scales = codes->f16_scales ? ScaleForm::kF16 : ScaleForm::kF32,
                    .minima = codes->minima};
  }

  std::unique_ptr<WeightMatrix> load_blocks(const std::string& name, int64_t first_row, int64_t rows) const override {
    const auto form = code_form(name);
    if (!form) return nullptr;
    const Entry& e = get(name);
    const GgufTensor& tensor = *e.tensor;
    const int64_t all = tensor.shape[0];
    check_rows(tensor.name, first_row, rows, all);
    const auto row_bytes = static_cast<size_t>(tensor.row_bytes());
    std::atomic<bool> finite = true;
    const GgmlTypeInfo info = ggml_type_info(tensor.type);
    CodeRows codes{rows, tensor.shape[1], *form, ggml_codes(tensor.type)->zero, info.block, {}};
    codes.read = [&](int64_t row, int64_t first, int64_t count, uint8_t* out, void* scales, void* minima) {
      const auto at = static_cast<size_t>(gguf_row(first_row + row, all, e.heads)) * row_bytes;
      const auto blocks = tensor.bytes.subspan(at + static_cast<size_t>(first / info.block * info.bytes),
                                               static_cast<size_t>(count / info.block * info.bytes));
      if (!blocks_are_finite(tensor.type, blocks)) finite = false;
      decode_blocks(tensor.type, blocks, count, out, scales, minima);
    };
    return mapped(tensor).checked([&] {
      auto weight = std::make_unique<WeightMatrix>(WeightMatrix::of_rows(codes));
      if (!finite) check_finite(name);  // says which value it is
      return weight;
    });
  }

  const GgufSet* gguf() const override { return &file_; }

  void check_unchanged() const override { file_.check_unchanged(); }

  void release(const std::string& name) const override {
    if (const auto it = entries_.find(name); it != entries_.end()) file_.release(*it->second.tensor);
  }

  const Tokenizer& tokenizer() const override {
    std::call_once(tokenizer_once_, [&] {
      try {
        TokenizerFiles files = tokenizer_files();
        files.origin = "tokenizer.ggml.tokens";
        tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_files(files, path_, config_.vocab_size));
      } catch (...) {
        rethrow_as_error(path_.c_str());  // names the model
      }
    });
    return *tokenizer_;
  }

  std::vector<CompanionFile> companion_files() const override {
    const auto files = std::make_shared<const TokenizerFiles>(tokenizer_files());
    const auto file = [&](const char* name, const std::string& content) {
      return CompanionFile{name, content.size(), [files, &content] { return content; }};
    };
    return {file("tokenizer.json", files->tokenizer_json), file("tokenizer_config.json", files->tokenizer_config_json),
            file("generation_config.json", files->generation_config_json)};
  }

  Digest digest() const override {
    Digester digester;
    for (const GgufFile& file : file_.files()) add_file(digester, file.mapped());
    digester.add_text(config_json_->dump());
    if (const auto tokens = file_.metadata().find_strings("tokenizer.ggml.tokens")) {
      for (const std::string& token : *tokens) digester.add_text(token);
    }
    for (const auto& [name, e] : entries_) {
      add_header(digester, name, ggml_type_info(e.tensor->type).name, e.tensor->shape);
      add_sample(digester, e.tensor->bytes);
      release(name);
    }
    check_unchanged();
    return digester.result();
  }

 protected:
  void leave_out(const std::string& name, const std::string& reason) override {
    const auto it = entries_.find(name);
    const GgufTensor* tensor = it == entries_.end() ? file_.find(name) : it->second.tensor;
    if (tensor != nullptr && !reason.empty()) reasons_[tensor] = reason;
    if (it != entries_.end()) entries_.erase(it);
  }

  int64_t first_not_finite(const std::string& name) const override {
    const GgufTensor& tensor = *get(name).tensor;
    const bool readable = ggml_type_info(tensor.type).can_dequantize;
    if (readable && mapped(tensor).checked([&] { return blocks_are_finite(tensor.type, tensor.bytes); })) return -1;
    // Which value it is, the blocks' own arithmetic tells.
    const auto [rows, columns] = matrix_shape(get(name).tensor->shape, stored_name(name), path_);
    // 512 KiB of floats at a time: they stay in a core's cache, and their memory is used again.
    const int64_t piece = std::max<int64_t>(1, (int64_t{1} << 17) / std::max<int64_t>(columns, 1));
    for (int64_t first = 0; first < rows; first += piece) {
      const Matrix m = load(name, first, std::min(piece, rows - first));
      const auto values = m.values();
      // The largest magnitude, compared as integers, shows NaN and infinity without a branch for each value.
      int32_t largest = 0;
      for (const float v : values) largest = std::max(largest, std::bit_cast<int32_t>(v) & 0x7fffffff);
      if (largest < 0x7f800000) continue;
      const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
      if (bad != values.end()) return first * columns + (bad - values.begin());
    }
    return -1;
  }

  std::string files_read(const std::string&) const override {
    const std::string first = std::filesystem::path(path_).filename().string();
    return file_.files().size() == 1 ? first
                                     : fmt::format("{} and its {} other parts", first, file_.files().size() - 1);
  }

 private:
  const MappedFile& mapped(const GgufTensor& tensor) const { return file_.file_of(tensor).mapped(); }
  std::string file_name(const GgufTensor& tensor) const {
    return std::filesystem::path(mapped(tensor).path()).filename().string();
  }

  // Rows of a tensor of `all` rows, un-permuted, as f32.
  Matrix read(const Entry& e, int64_t first_row, int64_t rows, int64_t all, int64_t columns) const {
    Matrix m(rows, columns);
    if (e.heads == 0) {
      dequantize_rows(*e.tensor, first_row, rows, m.data());
    } else if (e.tensor->shape.size() == 1) {
      std::vector<float> values(static_cast<size_t>(columns));
      dequantize_rows(*e.tensor, 0, 1, values.data());
      for (int64_t c = 0; c < columns; ++c) m(0, c) = values[static_cast<size_t>(gguf_row(c, columns, e.heads))];
    } else {
      parallel_for(rows, [&](int64_t r) {
        dequantize_rows(*e.tensor, gguf_row(first_row + r, all, e.heads), 1, m.data() + r * columns);
      });
    }
    if (e.minus_one) {
      for (float& v : m.values()) v -= 1.0F;
    }
    return m;
  }

  const Entry& get(const std::string& name) const {
    const auto it = entries_.find(name);
    if (it == entries_.end())
      throw FormatError(fmt::format("{}: tensor {} is missing", path_, escaped(stored_name(name))));
    return it->second;
  }

  // Tools leave the keys of a split behind in files that are whole again: the tensors tell.
  void settle_split() {
    const uint64_t parts = file_.parts_elsewhere();
    if (parts == 0) return;
    const auto blocks = file_.metadata().find_u64(file_.metadata().get_string("general.architecture") + ".block_count");
    bool whole = blocks && file_.find("token_embd.weight") != nullptr && file_.find("output_norm.weight") != nullptr;
    for (uint64_t i = 0; whole && i < *blocks; ++i) {
      whole = file_.find(fmt::format("blk.{}.ffn_down.weight", i)) != nullptr &&
              file_.find(fmt::format("blk.{}.attn_norm.weight", i)) != nullptr;
    }
    if (const auto name = parse_gguf_split_name(path_); !whole && name && name->part == 1 && name->parts == parts) {
      throw FormatError(fmt::format(
          "{}: the first of {} parts of a model: expected all of them beside each other, found no {}; get all parts of "
          "the model from one place again",
          path_, parts, escaped(name->of_part(2))));
    }
    if (!whole) {
      throw FormatError(fmt::format(
          "{}: one of {} parts of a model: expected a name that says which ({}, and so on), beside the others of this "
          "form, found another; give the parts their names again, or join them with: llama-gguf-split --merge",
          path_, parts, gguf_split_name("NAME", 1, static_cast<uint32_t>(std::min<uint64_t>(parts, 99999)))));
    }
    warnings_.push_back(fmt::format(
        "{}: its keys split.* say that it is one of {} parts, but it holds every block: it is read as a whole model",
        path_, parts));
  }

  void add(const GgufName& n) {
    gguf_names_.emplace(n.name, n.gguf);
    const GgufTensor* tensor = file_.find(n.gguf);
    if (tensor == nullptr) return;  // check() names what is missing
    if (!ggml_type_info(tensor->type).can_dequantize) {
      throw UnsupportedError(fmt::format("{}: tensor {}: type {} is not supported", path_, escaped(n.gguf),
                                         ggml_type_info(tensor->type).name));
    }
    if (n.heads > 0 && (tensor->shape.empty() || tensor->shape[0] % (2 * n.heads) != 0)) {
      throw FormatError(fmt::format("{}: tensor {}: expected rows in {} of even size, found {}", path_, n.gguf,
                                    counted(n.heads, "head"), shape_string(tensor->shape)));
    }
    entries_.emplace(n.name, Entry{tensor, n.heads, n.plus_one});
  }

  void collect() {
    for (const GgufTensor& t : file_.tensors()) {
      if (!t.name.ends_with(".lora_a") && !t.name.ends_with(".lora_b")) continue;
      throw FormatError(
          fmt::format("{}: tensor {}: expected a whole model, found a LoRA adapter that is not merged; merge it first: "
                      "llama-export-lora",
                      path_, shown(t.name)));
    }
    // Biases that no family here has are among them: check() refuses those unless they are zeros.
    for (const GgufName& name : gguf_names(*family_, config_)) add(name);
  }

  TokenizerFiles tokenizer_files() const {
    const GgufTokenizerData d =
        file_.files().front().mapped().checked([&] { return read_gguf_tokenizer(file_.metadata()); });
    RebuiltTokenizer rebuilt = rebuild_gguf_tokenizer(d, path_);
    TokenizerFiles files;
    files.tokenizer_json = std::move(rebuilt.tokenizer_json);
    files.tokenizer_config_json = std::move(rebuilt.tokenizer_config_json);
    files.generation_config_json = std::move(rebuilt.generation_config_json);
    files.warnings = std::move(rebuilt.warnings);
    return files;
  }

  GgufSet file_;
  std::string architecture_;
  std::map<std::string, std::string> gguf_names_;  // of Hugging Face -> of the file, whether it is there or not
  std::map<std::string, Entry> entries_;
  std::map<const GgufTensor*, std::string> reasons_;  // why a tensor was left out
  mutable std::once_flag tokenizer_once_;
  mutable std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

std::unique_ptr<ModelSource> open_gguf_source(const std::string& path, bool of_folder) {
  // What the user names may be a link to anywhere. The other parts are files that stand beside it.
  return std::make_unique<GgufSource>(path, [&](const std::string& file) {
    return of_folder || file != path ? map_model_file(file) : MappedFile(file);
  });
}

}  // namespace metal_marlin
