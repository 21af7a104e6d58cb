#include "write/tiny_model.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/half.h"
#include "core/random.h"
#include "formats/safetensors.h"

namespace metal_marlin::test {
namespace {

const std::vector<std::pair<std::string, std::vector<int64_t>>>& layer_tensors() {
  static const std::vector<std::pair<std::string, std::vector<int64_t>>> kTensors = {
      {"input_layernorm.weight", {kHidden}},
      {"post_attention_layernorm.weight", {kHidden}},
      {"self_attn.q_proj.weight", {kHidden, kHidden}},
      {"self_attn.k_proj.weight", {kKv, kHidden}},
      {"self_attn.v_proj.weight", {kKv, kHidden}},
      {"self_attn.o_proj.weight", {kHidden, kHidden}},
      {"mlp.gate_proj.weight", {kIntermediate, kHidden}},
      {"mlp.up_proj.weight", {kIntermediate, kHidden}},
      {"mlp.down_proj.weight", {kHidden, kIntermediate}},
  };
  return kTensors;
}

std::vector<std::pair<std::string, std::vector<int64_t>>> all_tensors() {
  std::vector<std::pair<std::string, std::vector<int64_t>>> all = {{"model.embed_tokens.weight", {kVocab, kHidden}},
                                                                   {"model.norm.weight", {kHidden}},
                                                                   {"lm_head.weight", {kVocab, kHidden}}};
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (const auto& [name, shape] : layer_tensors())
      all.emplace_back("model.layers." + std::to_string(layer) + "." + name, shape);
  }
  return all;
}

DType tiny_dtype(const std::string& name) {
  if (name.find("norm") != std::string::npos) return DType::kF32;
  return name.find("proj") != std::string::npos ? DType::kF16 : DType::kBF16;
}

// FNV-1a, 64 bits: the committed sums are of models whose weights it chose.
uint64_t stream_of(const std::string& name) {
  uint64_t state = 0xcbf29ce484222325u;
  for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return state;
}

}  // namespace

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "metal_marlin_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw SystemError("mkdtemp");
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<int64_t> tiny_shape(const std::string& name) {
  for (const auto& [n, shape] : all_tensors()) {
    if (n == name) return shape;
  }
  return {};
}

std::vector<std::string> tiny_linears() {
  std::vector<std::string> names;
  for (const auto& [name, shape] : all_tensors()) {
    if (name.find("proj") != std::string::npos) names.push_back(name);
  }
  return names;
}

void write_tiny_model(const std::string& folder, const std::map<std::string, std::vector<float>>& replace) {
  create_folders(folder);
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"hidden_size", kHidden},
                                 {"intermediate_size", kIntermediate},
                                 {"num_hidden_layers", kLayers},
                                 {"num_attention_heads", 8},
                                 {"num_key_value_heads", 1},
                                 {"head_dim", 32},
                                 {"vocab_size", kVocab},
                                 {"max_position_embeddings", 64},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 10000.0},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", false},
                                 {"torch_dtype", "bfloat16"},
                                 {"eos_token_id", 1}};
  write_text_file(folder + "/config.json", config.dump());
  write_text_file(folder + "/tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast"})");
  std::vector<OwnedTensor> tensors;
  for (const auto& [name, shape] : all_tensors()) {
    OwnedTensor t;
    t.name = name;
    t.shape = shape;
    t.dtype = tiny_dtype(name);
    int64_t count = 1;
    for (const int64_t d : shape) count *= d;
    t.bytes = Buffer(static_cast<size_t>(count) * dtype_size(t.dtype));
    Random random(1, stream_of(name));
    const auto given = replace.find(name);
    for (int64_t i = 0; i < count; ++i) {
      const float value =
          given != replace.end() ? given->second[static_cast<size_t>(i)] : static_cast<float>(0.1 * random.normal());
      if (t.dtype == DType::kF32) reinterpret_cast<float*>(t.bytes.data())[i] = value;
      if (t.dtype == DType::kF16) reinterpret_cast<uint16_t*>(t.bytes.data())[i] = f32_to_f16(value);
      if (t.dtype == DType::kBF16) reinterpret_cast<uint16_t*>(t.bytes.data())[i] = f32_to_bf16(value);
    }
    tensors.push_back(std::move(t));
  }
  write_safetensors(folder + "/model.safetensors", std::span<const OwnedTensor>(tensors), {{"format", "pt"}});
}

QuantizedTensor TinyProvider::quantized(const std::string& name) {
  ++asked[name];
  if (name == fail_at) throw Interrupted("asked to stop");
  if (const auto found = instead.find(name); found != instead.end()) return found->second;
  for (const QuantizedLinear& l : plan_.quantized) {
    if (l.name != name) continue;
    QuantizedTensor t;
    t.out_features = l.out_features;
    t.in_features = l.in_features;
    t.group_size = l.group_size;
    t.symmetric = plan_.symmetric;
    t.bits = l.bits;
    const uint64_t levels = uint64_t{1} << l.bits;
    Random random(2, stream_of(name));
    t.codes.resize(static_cast<size_t>(l.out_features * l.in_features));
    for (uint8_t& c : t.codes) c = static_cast<uint8_t>(random.below(levels));
    t.scales.resize(static_cast<size_t>(l.out_features * t.groups()));
    for (uint16_t& s : t.scales) s = f32_to_f16(static_cast<float>(0.02 * random.normal()));
    t.zeros.resize(t.scales.size());
    for (uint8_t& z : t.zeros) z = static_cast<uint8_t>(plan_.symmetric ? levels / 2 : random.below(levels));
    return t;
  }
  throw ArgumentError(name + ": not planned");
}

OwnedTensor TinyProvider::changed(const std::string& name) {
  OwnedTensor t;
  t.name = name;
  t.shape = tiny_shape(name);
  t.dtype = DType::kF16;
  t.bytes = Buffer(static_cast<size_t>(kHidden) * 2);
  for (int64_t i = 0; i < kHidden; ++i)
    reinterpret_cast<uint16_t*>(t.bytes.data())[i] = f32_to_f16(1.0f + static_cast<float>(i) / 256.0f);
  return t;
}

CheckpointPlan tiny_plan(int64_t group_size, bool symmetric, const std::vector<std::string>& skip) {
  CheckpointPlan plan;
  plan.group_size = group_size;
  plan.symmetric = symmetric;
  plan.method = "rtn";
  for (const std::string& name : tiny_linears()) {
    if (std::find(skip.begin(), skip.end(), name) != skip.end()) {
      plan.skipped.push_back({name, "asked for"});
      continue;
    }
    const auto shape = tiny_shape(name);
    plan.quantized.push_back({name, shape[0], shape[1], group_size < 0 ? shape[1] : group_size, ""});
  }
  return plan;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(TinyModel, IsAReadableModel) {
  TempFolder folder;
  write_tiny_model(folder.path());
  const auto source = ModelSource::open(folder.path());
  source->check();
  EXPECT_EQ(source->tensors().size(), all_tensors().size());
}

}  // namespace metal_marlin::test
