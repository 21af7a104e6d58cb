// Each rule has a checkpoint that keeps it and one that breaks it.
#include <fmt/format.h>

#include "check/folders.h"
#include "check/pattern.h"

namespace metal_marlin {
namespace {

using namespace test;  // NOLINT

void expect(const Checkpoint& c, const std::string& target, const std::string& whole, const std::string& rule = {},
            const std::string& found = {}, int64_t devices = 1) {
  const CheckResult result = ask(c, target, devices);
  EXPECT_EQ(result.verdict, whole) << text_of(result);
  if (!rule.empty()) {
    EXPECT_EQ(verdict(result, rule), found) << rule << "\n" << text_of(result);
  }
}
constexpr const char* kLoads = "loads";
constexpr const char* kRefused = "does not load";
constexpr const char* kWrong = "loads, and reads wrongly";
constexpr const char* kUnknown = "not known";

TEST(Check, WhatEnginesHaveLoads) {
  for (const char* target : {"vllm", "sglang", "transformers", "mlx"}) expect(float_checkpoint(), target, kLoads);
  for (const char* target : {"vllm", "sglang", "transformers", "mlx"}) expect(awq_checkpoint(), target, kLoads);
  for (const char* target : {"vllm", "sglang", "transformers"}) expect(gptq_checkpoint(), target, kLoads);
  for (const char* target : {"vllm", "sglang", "transformers"}) expect(packed_checkpoint(), target, kLoads);
  expect(mlx_checkpoint(), "mlx", kLoads);
}

TEST(Check, WhatEnginesHaveNotIsRefused) {
  for (const char* target : {"vllm", "sglang", "transformers"})
    expect(mlx_checkpoint(), target, kRefused, "format", "refused");
  expect(gptq_checkpoint(), "mlx", kRefused, "mlx-group-index", "refused");
  expect(packed_checkpoint(), "mlx", kRefused, "format", "refused");
  Checkpoint native = float_checkpoint();
  native.settings() = {{"quant_method", "metal_marlin"}, {"bits", 4}};
  for (const char* target : {"vllm", "sglang", "transformers", "mlx"})
    expect(native, target, kRefused, "format", "refused");
  Checkpoint others = float_checkpoint();
  others.settings() = {{"quant_method", "quark"}};
  for (const char* target : {"vllm", "sglang", "transformers"}) expect(others, target, kUnknown, "format", "unknown");
  for (const auto& c : {float_checkpoint(), awq_checkpoint()})
    expect(c, "llama.cpp", kRefused, "needs-gguf", "refused");
}

TEST(Check, FilesAreThere) {
  Checkpoint c = awq_checkpoint();
  c.files.clear();
  expect(c, "vllm", kRefused, "tokenizer-missing", "refused");
  expect(c, "transformers", kLoads, "tokenizer-missing", "note");
  c = awq_checkpoint();
  c.weights = "weights.safetensors";
  expect(c, "vllm", kLoads, "weights-name", "");
  expect(c, "transformers", kRefused, "weights-name", "refused");
  expect(c, "mlx", kRefused, "weights-name", "refused");
  c = awq_checkpoint();
  c.files["model.safetensors.index.json"] =
      R"({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}})";
  expect(c, "vllm", kRefused, "weights-missing", "refused");
  const WrittenFolder folder;
  folder.write(awq_checkpoint());
  std::filesystem::resize_file(folder.path("model.safetensors"), 1000);
  EXPECT_EQ(verdict(ask(folder.path(), "vllm"), "file-damaged"), "refused");
  std::filesystem::remove(folder.path("config.json"));
  EXPECT_EQ(verdict(ask(folder.path(), "sglang"), "config-missing"), "refused");
}

TEST(Check, TwoCopiesOfATensor) {
  const WrittenFolder folder;
  Checkpoint c = awq_checkpoint();
  folder.write(c);
  c.weights = "model-copy.safetensors";
  folder.write(c);
  EXPECT_EQ(ask(folder.path(), "mlx").verdict, kUnknown);
  EXPECT_EQ(verdict(ask(folder.path(), "vllm"), "tensors-twice"), "unknown");
}

TEST(Check, SettingsAreWhereEnginesLook) {
  Checkpoint c = gptq_checkpoint();
  c.files["quantize_config.json"] = c.settings().dump();
  c.config.erase("quantization_config");
  expect(c, "vllm", kRefused, "quantization-config-missing", "refused");
  expect(c, "transformers", kWrong, "quantization-config-missing", "wrong");
  c = awq_checkpoint();
  c.config["text_config"] = {{"quantization_config", c.settings()}};
  c.config.erase("quantization_config");
  expect(c, "vllm", kLoads, "quantization-config-nested", "note");
  expect(c, "sglang", kUnknown, "quantization-config-nested", "unknown");
}

TEST(Check, TheModelIsKnownAndWhole) {
  Checkpoint c = awq_checkpoint();
  c.config["model_type"] = "new";
  expect(c, "vllm", kUnknown, "architecture", "unknown");
  c = awq_checkpoint();
  c.config["num_local_experts"] = 8;
  expect(c, "sglang", kUnknown, "architecture", "unknown");
  c = awq_checkpoint();
  c.config["num_hidden_layers"] = 2;
  expect(c, "vllm", kRefused, "tensors-missing", "refused");
  expect(c, "transformers", kWrong, "tensors-missing", "wrong");
}

TEST(Check, ShapesFollowFromTheSizes) {
  Checkpoint c = awq_checkpoint();
  c.config["intermediate_size"] = 1024;
  for (const char* target : {"vllm", "sglang", "transformers", "mlx"}) expect(c, target, kRefused, "shapes", "refused");
  c = packed_checkpoint();
  c.config["num_key_value_heads"] = 4;
  expect(c, "vllm", kRefused, "shapes", "refused");
  c = awq_checkpoint();
  c.config["model_type"] = "qwen2";  // whose q, k and v have biases
  expect(c, "vllm", kRefused, "tensors-missing", "refused");
}

TEST(Check, HeadAndEmbedding) {
  Checkpoint c = packed_checkpoint();
  store_packed()(c, "lm_head", 64, 256);
  c.settings()["ignore"] = json::array();
  expect(c, "vllm", kLoads, "head", "");
  c.config["tie_word_embeddings"] = true;
  expect(c, "vllm", kWrong, "head", "wrong");
  c = mlx_checkpoint();
  store_mlx()(c, "lm_head", 64, 256);
  c.config["tie_word_embeddings"] = true;
  expect(c, "mlx", kRefused, "head", "refused");
  c = awq_checkpoint();
  drop(c, "lm_head");
  expect(c, "sglang", kRefused, "head", "refused");
  c = packed_checkpoint();
  store_packed()(c, "model.embed_tokens", 64, 256);
  expect(c, "vllm", kLoads, "embedding-quantized", "");
  expect(c, "transformers", kRefused, "embedding-quantized", "refused");
  c = awq_checkpoint();
  store_awq()(c, "lm_head", 64, 256);
  c.settings()["modules_to_not_convert"] = nullptr;
  expect(c, "vllm", kRefused, "head-quantized", "refused");
  c.settings()["lm_head"] = true;
  expect(c, "vllm", kLoads, "head-quantized", "");
}

TEST(Check, ConfigAgainstTensors) {
  Checkpoint c = awq_checkpoint();
  c.settings()["group_size"] = 64;
  for (const char* target : {"vllm", "sglang", "transformers"})
    expect(c, target, kRefused, "sizes-disagree", "refused");
  expect(c, "mlx", kLoads);  // takes the shapes
  c = gptq_checkpoint();
  c.settings()["bits"] = 8;
  expect(c, "vllm", kRefused, "sizes-disagree", "refused");
  c = awq_checkpoint();
  c.settings()["version"] = "gemv";
  expect(c, "vllm", kRefused, "awq-version", "refused");
  expect(c, "transformers", kLoads, "awq-version", "");
  c = awq_checkpoint();
  c.settings().erase("zero_point");
  expect(c, "sglang", kRefused, "quantization-keys", "refused");
  c = packed_checkpoint();
  store(c, store_awq(), "mlp.down_proj");
  expect(c, "vllm", kRefused, "tensors-of-format", "refused");
}

TEST(Check, Kernels) {
  Checkpoint c = gptq_checkpoint();
  c.settings()["sym"] = false;
  for (const char* target : {"vllm", "sglang"}) expect(c, target, kRefused, "gptq-asymmetric", "refused");
  expect(c, "transformers", kLoads);
  c = float_checkpoint(store_gptq(128, 2));
  c.settings() = gptq_checkpoint().settings();
  c.settings()["bits"] = 2;
  expect(c, "vllm", kRefused, "bits-of-kernels", "refused");
  c = float_checkpoint(store_awq(16));
  c.settings() = awq_checkpoint().settings();
  c.settings()["group_size"] = 16;
  expect(c, "vllm", kLoads, "group-size-of-kernels", "slow");
  c.config["torch_dtype"] = "bfloat16";
  expect(c, "sglang", kRefused, "awq-kernel-type", "refused");
  c = awq_checkpoint();
  c.config["torch_dtype"] = "bfloat16";
  expect(c, "vllm", kLoads, "scales-rounded", "note");
  c = awq_checkpoint();
  c.settings()["zero_point"] = false;
  expect(c, "vllm", kLoads, "awq-zero-point", "slow");
  c = float_checkpoint(store_gptq(16));
  c.settings() = gptq_checkpoint().settings();
  c.settings()["group_size"] = 16;
  expect(c, "vllm", kRefused, "group-size-of-kernels", "refused");
  c = awq_checkpoint();
  c.add(kLayer + "mlp.down_proj.qweight", DType::kI32, {500, 32});
  expect(c, "vllm", kRefused, "groups-divide", "refused");
  c = awq_checkpoint();
  c.add(kLayer + "self_attn.o_proj.scales", DType::kF16, {2, 252});
  expect(c, "vllm", kRefused, "outputs-pack", "refused");
}

TEST(Check, MarlinTiles) {
  const Checkpoint c = awq_checkpoint();
  expect(c, "vllm", kLoads, "marlin-tiles", "");
  expect(c, "sglang", kRefused, "shards-divide", "refused", 4);  // o has 64 inputs on each
  Checkpoint groups = float_checkpoint(store_awq(32));
  groups.settings() = awq_checkpoint().settings();
  groups.settings()["group_size"] = 32;
  expect(groups, "vllm", kLoads, "marlin-tiles", "note", 4);
  expect(groups, "sglang", kLoads, "marlin-tiles", "slow", 4);
  Checkpoint packed = float_checkpoint(store_packed(32));
  packed.settings() = packed_checkpoint().settings();
  packed.settings()["config_groups"]["group_0"] = packed_group(4, 32);
  expect(packed, "vllm", kLoads, "marlin-tiles", "note", 4);
  expect(packed, "sglang", kUnknown, "marlin-tiles", "unknown", 4);
}

TEST(Check, TensorParallel) {
  const Checkpoint c = packed_checkpoint();
  for (const char* target : {"vllm", "sglang"}) {
    expect(c, target, kLoads, "shards-divide", "", 2);
    expect(c, target, kRefused, "shards-divide", "refused", 4);  // o: 256 / 4 = 64 inputs, groups of 128
    expect(c, target, kRefused, "heads-divide", "refused", 3);
  }
  Checkpoint order = gptq_checkpoint();
  order.settings()["desc_act"] = true;
  expect(order, "vllm", kRefused, "act-order", "refused");
  expect(order, "sglang", kLoads, "act-order", "");
  expect(order, "sglang", kLoads, "act-order", "slow", 2);
  order.settings()["desc_act"] = false;
  order.integers[kLayer + "mlp.down_proj.g_idx"] = {1, 0};
  expect(order, "vllm", kWrong, "act-order", "wrong");
}

TEST(Check, FusedLayersHaveOneScheme) {
  for (const auto& [base, other] : std::vector<std::pair<Checkpoint, Store>>{{packed_checkpoint(), store_packed(64)},
                                                                             {awq_checkpoint(), store_float}}) {
    Checkpoint c = base;
    store(c, other, "self_attn.v_proj");
    for (const char* target : {"vllm", "sglang"}) expect(c, target, kRefused, "fused-scheme", "refused");
    c = base;
    store(c, other, "mlp.up_proj");
    for (const char* target : {"vllm", "sglang"}) expect(c, target, kRefused, "fused-scheme", "refused");
  }
}

TEST(Check, SkipLists) {
  const std::vector<std::string> qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  Checkpoint c = awq_checkpoint();
  json names = {"lm_head"};
  for (const std::string& name : qkv) {
    store(c, store_float, name);
    names.push_back(kLayer + name);
  }
  c.settings()["modules_to_not_convert"] = names;
  expect(c, "vllm", kLoads, "awq-skip-list", "");
  expect(c, "transformers", kLoads, "awq-skip-list", "");
  expect(c, "sglang", kRefused, "awq-skip-list", "refused");  // which asks for qkv_proj
  names.push_back(kLayer + "self_attn.qkv_proj");
  c.settings()["modules_to_not_convert"] = names;
  expect(c, "sglang", kLoads, "awq-skip-list", "");
  c.settings()["modules_to_not_convert"] = json::array();
  expect(c, "vllm", kLoads, "awq-skip-list", "");  // the types of the tensors decide
  expect(c, "sglang", kRefused, "awq-skip-list", "refused");
  c.settings()["modules_to_not_convert"] = {kLayer + "self_attn.q_proj"};
  expect(c, "vllm", kRefused, "awq-skip-list", "refused");
  c = awq_checkpoint();
  c.settings()["modules_to_not_convert"] = {"lm_head", "gate"};
  for (const char* target : {"vllm", "sglang"}) expect(c, target, kRefused, "awq-skip-list", "refused");
  expect(c, "transformers", kLoads, "awq-skip-list", "");
  c.settings()["modules_to_not_convert"] = {"(?=x)"};
  expect(c, "transformers", kUnknown, "awq-skip-list", "unknown");
}

TEST(Check, IgnoreAndDynamic) {
  Checkpoint c = packed_checkpoint();
  store(c, store_float, "mlp.down_proj");
  for (const char* target : {"vllm", "sglang", "transformers"}) expect(c, target, kRefused, "targets", "refused");
  c.settings()["ignore"] = {"lm_head", "re:.*down_proj$"};
  for (const char* target : {"vllm", "sglang", "transformers"}) expect(c, target, kLoads);
  c.settings()["ignore"] = {"lm_head", "re:.*(down|o)_proj$"};
  for (const char* target : {"vllm", "sglang"}) expect(c, target, kRefused, "ignore-list", "refused");
  c = gptq_checkpoint();
  store(c, store_float, "mlp.down_proj");
  expect(c, "vllm", kLoads, "gptq-skip-list", "");
  expect(c, "sglang", kRefused, "gptq-skip-list", "refused");
  expect(c, "transformers", kUnknown, "gptq-floats", "unknown");
  c.settings()["dynamic"] = {{"-:.*down_proj", json::object()}};
  expect(c, "sglang", kLoads, "gptq-skip-list", "");
}

TEST(Check, CompressedTensors) {
  Checkpoint c = packed_checkpoint();
  json& group = c.settings()["config_groups"]["group_0"];
  group["weights"]["new"] = 1;
  for (const char* target : {"vllm", "sglang", "transformers"})
    expect(c, target, kRefused, "config-group-keys", "refused");
  group["weights"].erase("new");
  group["weights"]["strategy"] = "channel";
  expect(c, "vllm", kRefused, "config-group-values", "refused");
  group["weights"]["strategy"] = "group";
  group["weights"]["actorder"] = "group";
  for (const char* target : {"vllm", "transformers"}) expect(c, target, kRefused, "config-group-values", "refused");
  expect(c, "sglang", kUnknown, "config-group-values", "unknown");
  group["weights"]["actorder"] = "weight";
  expect(c, "vllm", kLoads);
  group["weights"]["num_bits"] = 8;
  expect(c, "vllm", kRefused, "targets", "refused");
  c = float_checkpoint(store_packed(128, 3));
  c.settings() = packed_checkpoint().settings();
  c.settings()["config_groups"]["group_0"] = packed_group(3);
  expect(c, "sglang", kRefused, "schemes", "refused");
  expect(c, "vllm", kUnknown, "schemes", "unknown");
  expect(c, "transformers", kLoads);
  c = float_checkpoint(store_packed(128, 8, true));
  c.settings() = packed_checkpoint().settings();
  c.settings()["config_groups"]["group_0"] = packed_group(8, 128, false);
  for (const char* target : {"vllm", "sglang"}) expect(c, target, kUnknown, "schemes", "unknown");
  c = float_checkpoint(store_packed(128, 4, true));
  c.settings() = packed_checkpoint().settings();
  c.settings()["config_groups"]["group_0"] = packed_group(4, 128, false);
  for (const char* target : {"vllm", "sglang"}) expect(c, target, kLoads);
  expect(c, "transformers", kRefused, "zero-points", "refused");
  c.settings()["dequantize"] = true;
  expect(c, "transformers", kLoads, "zero-points", "");
  c = packed_checkpoint();
  c.integers[kLayer + "mlp.down_proj.weight_shape"] = {256, 511};
  expect(c, "vllm", kRefused, "packed-groups-divide", "refused");
}

TEST(Check, Mlx) {
  Checkpoint c = mlx_checkpoint();
  c.config.erase("rope_theta");
  c.config["rope_parameters"] = {{"rope_theta", 500000.0}, {"rope_type", "default"}};
  expect(c, "mlx", kWrong, "mlx-rope-keys", "wrong");
  c.config["rope_parameters"]["rope_theta"] = 10000.0;  // what mlx-lm takes anyway
  expect(c, "mlx", kLoads);
  c.config["rope_parameters"]["rope_theta"] = 500000.0;
  c.config["rope_theta"] = 500000.0;
  expect(c, "mlx", kLoads);
  c = mlx_checkpoint();
  c.config.erase("tie_word_embeddings");
  expect(c, "mlx", kWrong, "mlx-tied-default", "wrong");
  c = float_checkpoint(store_mlx(16));
  c.config["quantization"] = {{"group_size", 16}, {"bits", 4}};
  expect(c, "mlx", kRefused, "mlx-bits-and-groups", "refused");
  c = mlx_checkpoint();
  c.config["quantization"]["mode"] = "mxfp4";
  expect(c, "mlx", kUnknown, "mlx-mode", "unknown");
  c = mlx_checkpoint();
  c.add(kLayer + "self_attn.q_proj.weight.q_scale", DType::kF16, {256});
  expect(c, "mlx", kRefused, "mlx-extra-tensors", "refused");
}

// A GGUF file of our own converter, as llama.cpp wants it, and with its pre-tokenizer's name changed.
TEST(Check, Gguf) {
  const std::string from = std::string(TEST_DATA) + "/models/gguf";
  std::string file;
  for (const auto& entry : std::filesystem::directory_iterator(from)) {
    if (entry.path().extension() == ".gguf" && (file.empty() || entry.path().string() < file))
      file = entry.path().string();
  }
  ASSERT_FALSE(file.empty());
  const CheckResult whole = ask(file, "llama.cpp");
  EXPECT_EQ(whole.verdict, kLoads) << file << "\n" << text_of(whole);
  EXPECT_EQ(ask(file, "mlx").verdict, kRefused);
  EXPECT_EQ(ask(file, "vllm").verdict, kUnknown);
  std::ifstream in(file, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  // A folder with nothing but that file, as quantize and convert leave it, is that file.
  const WrittenFolder alone;
  std::filesystem::copy_file(file, alone.path("model.gguf"));
  EXPECT_EQ(ask(alone.path(""), "llama.cpp").verdict, kLoads);
  std::filesystem::copy_file(file, alone.path("other.gguf"));
  EXPECT_NE(ask(alone.path(""), "llama.cpp").verdict, kLoads);
  const WrittenFolder folder;
  const auto judged = [&](const std::string& name, const std::string& content) {
    std::ofstream(folder.path(name), std::ios::binary) << content;
    return ask(folder.path(name), "llama.cpp");
  };
  EXPECT_EQ(verdict(judged("short.gguf", bytes.substr(0, bytes.size() / 2)), "file-damaged"), "refused");
  const auto renamed = [&](const std::string& key) {
    std::string changed = bytes;
    const size_t at = changed.find(key);
    EXPECT_NE(at, std::string::npos) << key;
    if (at != std::string::npos) changed[at] = '_';
    return changed;
  };
  EXPECT_EQ(verdict(judged("rows.gguf", renamed("token_embd.weight")), "gguf-embedding-rows"), "refused");
  EXPECT_EQ(verdict(judged("tensor.gguf", renamed("blk.0.ffn_down.weight")), "gguf-tensors"), "refused");
  EXPECT_EQ(verdict(judged("tokens.gguf", renamed("tokenizer.ggml.tokens")), "gguf-keys"), "refused");
}

TEST(Check, EveryRuleStandsInTheDocs) {
  std::ifstream in(SOURCE_FOLDER "/docs/check.md");
  const std::string page((std::istreambuf_iterator<char>(in)), {});
  for (const char* target : {"vllm", "sglang", "transformers", "mlx", "llama.cpp"}) {
    for (const Rule* rule : rules_of(*engine_named(target))) {
      EXPECT_NE(page.find(fmt::format("| `{}` |", rule->name)), std::string::npos) << rule->name;
      EXPECT_FALSE(std::string(rule->source).empty());
    }
  }
}

TEST(Pattern, IsPythonsMatch) {
  const std::vector<std::tuple<const char*, const char*, bool>> cases = {
      {"abc", "abcd", true},
      {"bc", "abc", false},
      {".*bc", "abc", true},
      {"a\\.b", "a.b", true},
      {"a\\.b", "axb", false},
      {"(a|bc)+d", "abcad", true},
      {"(a|bc)+d", "abcae", false},
      {"a{2,3}b", "aaab", true},
      {"a{2,3}b", "ab", false},
      {"^a$", "a", true},
      {"^a$", "ab", false},
      {"[a-c]+[^a-c]", "abd", true},
      {"\\d+", "x1", false},
      {".*layers\\.(?:1[0-5])\\..*", "model.layers.12.q", true},
      {"x*", "", true},
      {"a{2,}b", "aaaaab", true},
      {"a+?b", "aab", true}};
  for (const auto& [pattern, name, expected] : cases) {
    const Pattern p(pattern);
    ASSERT_TRUE(p.known()) << pattern;
    EXPECT_EQ(p.matches(name), expected) << pattern << " " << name;
  }
  for (const char* pattern : {"(?=a)", "\\bq", "a**", "(", "[a", "(?P<n>a)", "a{100}", "((((a{64}){64}){64}){64})"})
    EXPECT_FALSE(Pattern(pattern).known()) << pattern;
  const Pattern slow("(a*)*b");
  ASSERT_TRUE(slow.known());
  EXPECT_FALSE(slow.matches(std::string(10000, 'a')));
}

}  // namespace
}  // namespace metal_marlin
