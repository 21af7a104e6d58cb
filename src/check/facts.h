// What a checkpoint's files say of it, for the rules: read once, leniently, within bounds. Nothing here refuses what
// engines may accept; what cannot be read is kept as a fault.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace metal_marlin {

struct TensorFact {
  std::string dtype;  // as safetensors spells it
  std::vector<int64_t> shape;
  std::string file;
};

// A file that is there and cannot be read.
struct FileFault {
  std::string file;
  std::string reason;
  bool unsupported = false;  // by this program, which says nothing of engines
};

enum class WeightForm : uint8_t { kFloat, kQweight, kPacked, kMlx, kNative, kMarlin, kFloat8 };

// A module whose weight has two dimensions: a linear, the embedding, the head. What the files do not tell is empty.
struct ModuleFact {
  std::string name;  // "model.layers.0.mlp.up_proj"
  std::string file;
  WeightForm stored = WeightForm::kFloat;
  std::vector<int64_t> codes_shape;
  std::string scale_type;          // dtype of the scales
  std::optional<int64_t> rows;     // out_features
  std::optional<int64_t> columns;  // in_features
  std::optional<int64_t> bits;
  std::optional<int64_t> groups;  // in a row
  bool zeros = false;
  bool group_index = false;  // a tensor g_idx
  bool scattered = false;    // g_idx is not k / group_size
  std::optional<int64_t> group_size() const {
    if (!columns || !groups || *groups <= 0 || *columns % *groups != 0) return std::nullopt;
    return *columns / *groups;
  }
  bool quantized() const noexcept { return stored != WeightForm::kFloat; }
  // "q_proj", and what stands before it: "model.layers.0.self_attn".
  std::string last() const { return name.substr(name.rfind('.') + 1); }
  std::string parent() const { return name.find('.') == std::string::npos ? "" : name.substr(0, name.rfind('.')); }
};

struct ModelSizes {
  std::string model_type;
  bool nested = false;  // they stand in text_config
  std::optional<int64_t> hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, experts;
  std::optional<bool> tied;
  std::string dtype;  // "bfloat16"; empty: not said
};

struct GgufFacts {
  uint32_t version = 0;
  std::string architecture;
  std::map<std::string, std::string> texts;  // keys that hold a short text
  std::set<std::string> keys;                // all of them
  std::map<std::string, uint64_t> counts;    // elements of arrays
  std::map<std::string, int64_t> numbers;    // whole ones
  std::map<std::string, std::string> types;  // tensor -> ggml type
  std::map<std::string, std::vector<int64_t>> shapes;
};

struct CheckpointFacts {
  std::string path;
  bool gguf = false;
  std::optional<GgufFacts> gguf_facts;
  std::set<std::string> files;  // of the folder
  std::vector<FileFault> faults;

  nlohmann::json config;  // an object; empty where there is none
  bool has_config = false;
  ModelSizes sizes;
  // The settings of the quantization, and where they stand ("config.json: quantization_config"); null: none.
  nlohmann::json quantization;
  std::string quantization_place;
  std::string method;  // quant_method; "mlx" for MLX's own key
  std::string format;  // what config and tensors together say

  std::vector<std::string> weight_files;  // that hold the tensors below, in order
  bool has_index = false;
  std::map<std::string, std::string> placed;  // by the index: tensor -> file
  std::set<std::string> absent_files;         // that the index names
  std::map<std::string, TensorFact> tensors;
  std::vector<std::string> twice;  // tensors that two files hold
  std::map<std::string, ModuleFact> modules;

  bool has_file(const std::string& name) const { return files.count(name) > 0; }
  const ModuleFact* module(const std::string& name) const {
    const auto it = modules.find(name);
    return it == modules.end() ? nullptr : &it->second;
  }
  bool any_quantized() const;
};

// `path`: a folder or a file that is there.
CheckpointFacts read_facts(const std::string& path);

// Fills `modules` and `format` from tensors and settings (linear_facts.cc).
void find_modules(CheckpointFacts& facts);

// Lenient readers of a config: nothing where the key is absent or of another type.
std::optional<int64_t> whole(const nlohmann::json& object, const char* key);
std::optional<bool> truth(const nlohmann::json& object, const char* key);
std::string text(const nlohmann::json& object, const char* key);
std::vector<std::string> texts(const nlohmann::json& object, const char* key);
const nlohmann::json& part(const nlohmann::json& object, const char* key);  // null where it is no object

}  // namespace metal_marlin
