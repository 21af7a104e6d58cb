// Folders of checkpoints written by hand, for the rules: a Llama of one layer, hidden 256, 4 heads over 2, inner 512.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "check/check.h"
#include "formats/safetensors.h"

namespace metal_marlin::test {

using nlohmann::json;

struct Checkpoint {
  json config = {{"model_type", "llama"},    {"architectures", {"LlamaForCausalLM"}},
                 {"vocab_size", 64},         {"hidden_size", 256},
                 {"intermediate_size", 512}, {"num_hidden_layers", 1},
                 {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                 {"rope_theta", 10000.0},    {"tie_word_embeddings", false},
                 {"torch_dtype", "float16"}};
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> files = {{"tokenizer.json", "{}"}, {"tokenizer_config.json", "{}"}};
  std::string weights = "model.safetensors";
  std::map<std::string, std::vector<int64_t>> integers;  // the content of I64 and I32 tensors; others are zeros

  void add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    tensors[name] = {name, dtype, std::move(shape)};
  }
  json& settings() { return config["quantization_config"]; }
};

inline const std::vector<std::pair<std::string, std::vector<int64_t>>>& linears() {
  static const std::vector<std::pair<std::string, std::vector<int64_t>>> kLinears = {
      {"self_attn.q_proj", {256, 256}}, {"self_attn.k_proj", {128, 256}}, {"self_attn.v_proj", {128, 256}},
      {"self_attn.o_proj", {256, 256}}, {"mlp.gate_proj", {512, 256}},    {"mlp.up_proj", {512, 256}},
      {"mlp.down_proj", {256, 512}}};
  return kLinears;
}

inline const std::string kLayer = "model.layers.0.";

// Puts one linear in place of what was there.
using Store = std::function<void(Checkpoint&, const std::string& module, int64_t rows, int64_t columns)>;

inline void drop(Checkpoint& c, const std::string& module) {
  std::erase_if(c.tensors, [&](const auto& t) { return t.first.rfind(module + ".", 0) == 0; });
}
inline void store_float(Checkpoint& c, const std::string& module, int64_t rows, int64_t columns) {
  drop(c, module);
  c.add(module + ".weight", DType::kF16, {rows, columns});
}
inline Store store_awq(int64_t group = 128) {
  return [group](Checkpoint& c, const std::string& module, int64_t rows, int64_t columns) {
    drop(c, module);
    c.add(module + ".qweight", DType::kI32, {columns, rows / 8});
    c.add(module + ".qzeros", DType::kI32, {columns / group, rows / 8});
    c.add(module + ".scales", DType::kF16, {columns / group, rows});
  };
}
inline Store store_gptq(int64_t group = 128, int64_t bits = 4) {
  return [group, bits](Checkpoint& c, const std::string& module, int64_t rows, int64_t columns) {
    drop(c, module);
    c.add(module + ".qweight", DType::kI32, {columns * bits / 32, rows});
    c.add(module + ".qzeros", DType::kI32, {columns / group, rows * bits / 32});
    c.add(module + ".scales", DType::kF16, {columns / group, rows});
    c.add(module + ".g_idx", DType::kI32, {columns});
  };
}
inline Store store_packed(int64_t group = 128, int64_t bits = 4, bool zeros = false) {
  return [=](Checkpoint& c, const std::string& module, int64_t rows, int64_t columns) {
    drop(c, module);
    c.add(module + ".weight_packed", DType::kI32, {rows, columns * bits / 32});
    c.add(module + ".weight_scale", DType::kF16, {rows, columns / group});
    c.add(module + ".weight_shape", DType::kI64, {2});
    c.integers[module + ".weight_shape"] = {rows, columns};
    if (zeros) c.add(module + ".weight_zero_point", DType::kI32, {rows * bits / 32, columns / group});
  };
}
inline Store store_mlx(int64_t group = 64, int64_t bits = 4) {
  return [=](Checkpoint& c, const std::string& module, int64_t rows, int64_t columns) {
    drop(c, module);
    c.add(module + ".weight", DType::kU32, {rows, columns * bits / 32});
    c.add(module + ".scales", DType::kF16, {rows, columns / group});
    c.add(module + ".biases", DType::kF16, {rows, columns / group});
  };
}

inline void store(Checkpoint& c, const Store& how, const std::string& linear) {
  for (const auto& [name, shape] : linears()) {
    if (name == linear) how(c, kLayer + name, shape[0], shape[1]);
  }
}

inline Checkpoint float_checkpoint(const Store& how = store_float) {
  Checkpoint c;
  c.add("model.embed_tokens.weight", DType::kF16, {64, 256});
  c.add("lm_head.weight", DType::kF16, {64, 256});
  c.add("model.norm.weight", DType::kF16, {256});
  c.add(kLayer + "input_layernorm.weight", DType::kF16, {256});
  c.add(kLayer + "post_attention_layernorm.weight", DType::kF16, {256});
  for (const auto& [name, shape] : linears()) how(c, kLayer + name, shape[0], shape[1]);
  return c;
}
inline Checkpoint awq_checkpoint() {
  Checkpoint c = float_checkpoint(store_awq());
  c.settings() = {{"quant_method", "awq"}, {"bits", 4},         {"group_size", 128},
                  {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", {"lm_head"}}};
  return c;
}
inline Checkpoint gptq_checkpoint() {
  Checkpoint c = float_checkpoint(store_gptq());
  c.settings() = {{"quant_method", "gptq"}, {"bits", 4},   {"group_size", 128},
                  {"desc_act", false},      {"sym", true}, {"checkpoint_format", "gptq"},
                  {"lm_head", false}};
  return c;
}
inline json packed_group(int64_t bits = 4, int64_t group = 128, bool symmetric = true) {
  return {{"targets", {"Linear"}},
          {"weights",
           {{"num_bits", bits},
            {"type", "int"},
            {"symmetric", symmetric},
            {"strategy", "group"},
            {"group_size", group},
            {"dynamic", false}}},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", "pack-quantized"}};
}
inline Checkpoint packed_checkpoint() {
  Checkpoint c = float_checkpoint(store_packed());
  c.settings() = {{"quant_method", "compressed-tensors"},
                  {"format", "pack-quantized"},
                  {"quantization_status", "compressed"},
                  {"config_groups", {{"group_0", packed_group()}}},
                  {"ignore", {"lm_head"}}};
  return c;
}
inline Checkpoint mlx_checkpoint() {
  Checkpoint c = float_checkpoint(store_mlx());
  c.config["quantization"] = {{"group_size", 64}, {"bits", 4}};
  c.settings() = c.config["quantization"];
  return c;
}

// Writes the checkpoint into a folder of its own, asks the rules, and removes it.
class WrittenFolder {
 public:
  WrittenFolder() : path_(std::filesystem::temp_directory_path() / ("check_test_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~WrittenFolder() { std::filesystem::remove_all(path_); }
  WrittenFolder(const WrittenFolder&) = delete;
  WrittenFolder& operator=(const WrittenFolder&) = delete;
  std::string path(const std::string& name = {}) const { return (path_ / name).string(); }

  void write(const Checkpoint& c) const {
    std::ofstream(path("config.json")) << c.config.dump();
    for (const auto& [name, content] : c.files) std::ofstream(path(name)) << content;
    std::vector<TensorInfo> tensors;
    for (const auto& [name, tensor] : c.tensors) tensors.push_back(tensor);
    SafetensorsWriter writer(path(c.weights), tensors);
    for (const TensorInfo& t : writer.order()) {
      std::vector<std::byte> bytes(t.bytes());
      const auto it = c.integers.find(t.name);
      for (size_t i = 0; it != c.integers.end() && i < it->second.size(); ++i) {
        const size_t size = dtype_size(t.dtype);
        std::memcpy(bytes.data() + i * size, &it->second[i], size);  // little-endian
      }
      writer.write(t.name, bytes);
    }
    writer.commit();
  }

 private:
  std::filesystem::path path_;
};

inline CheckResult ask(const std::string& path, const std::string& target, int64_t devices = 1) {
  return ask_rules(read_facts(path), *engine_named(target), devices);
}
inline CheckResult ask(const Checkpoint& checkpoint, const std::string& target, int64_t devices = 1) {
  const WrittenFolder folder;
  folder.write(checkpoint);
  return ask(folder.path(), target, devices);
}
// The verdict of a rule; empty: it found nothing.
inline std::string verdict(const CheckResult& result, const std::string& rule) {
  for (const CheckFinding& f : result.findings) {
    if (f.rule == rule) return f.verdict;
  }
  return {};
}
inline std::string text_of(const CheckResult& result) {
  std::string out = result.target + ": " + result.verdict;
  for (const CheckFinding& f : result.findings) out += "\n  " + f.verdict + " " + f.rule + ": " + f.message;
  return out;
}

}  // namespace metal_marlin::test
