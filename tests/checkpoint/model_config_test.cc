// Expected numbers: by hand from the config files, and the defaults of transformers' configuration classes.
#include "families/config/model_config.h"

#include <cmath>
#include <functional>

#include "checkpoint/models.h"
#include "families/config/read_model_config.h"
#include "families/registry.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::small_config;
using test::tiny_model;

ModelConfig read(const json& config) {
  return read_model_config(config, find_family(config, "config.json"), "config.json");
}
ModelConfig read_tiny(const std::string& name) {
  return read(json::parse(test::file_content(tiny_model(name) + "/config.json")));
}
using Windows = std::vector<int64_t>;

TEST(ModelConfig, Llama) {
  const ModelConfig c = read_tiny("llama");
  EXPECT_EQ(c.model_type, "llama");
  EXPECT_EQ(c.vocab_size, 96);
  EXPECT_EQ(c.hidden_size, 32);
  EXPECT_EQ(c.intermediate_size, 40);
  EXPECT_EQ(c.num_hidden_layers, 2);
  EXPECT_EQ(c.num_attention_heads, 4);
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.max_position_embeddings, 64);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.activation, Activation::kSilu);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_FALSE(c.attention_bias || c.attention_output_bias || c.mlp_bias);
  EXPECT_EQ(c.embedding_multiplier, 1);
  EXPECT_DOUBLE_EQ(c.query_scale, 1 / std::sqrt(8.0));
  EXPECT_EQ(c.rope.type, RopeType::kDefault);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.sliding_window, Windows({0, 0}));
  EXPECT_EQ(c.eos_token_ids, std::vector<int32_t>({1}));
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.torch_dtype, "float32");
}

TEST(ModelConfig, LlamaWithBiasesInTheOldStyle) {
  const ModelConfig c = read_tiny("llama-bias");
  EXPECT_TRUE(c.attention_bias && c.attention_output_bias && c.mlp_bias && c.tie_word_embeddings);
  EXPECT_EQ(c.head_dim, 6);
  EXPECT_EQ(c.rope.theta, 500);
}

TEST(ModelConfig, KeysThatEnginesReadDifferentlyAreSaid) {
  json c = small_config();
  EXPECT_TRUE(read(c).warnings.empty());
  c["partial_rotary_factor"] = 0.5;
  ASSERT_EQ(read(c).warnings.size(), 1U);
  EXPECT_NE(read(c).warnings[0].find("partial_rotary_factor: turns "), std::string::npos);
  EXPECT_TRUE(read_tiny("phi3").warnings.empty());  // a key of this family
  c = small_config();
  c["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  ASSERT_EQ(read(c).warnings.size(), 1U);
  EXPECT_NE(read(c).warnings[0].find("original_max_position_embeddings"), std::string::npos);
  c["original_max_position_embeddings"] = 8;
  EXPECT_TRUE(read(c).warnings.empty());
}

TEST(ModelConfig, RopeTypes) {
  ModelConfig c = read_tiny("llama-linear");
  EXPECT_EQ(c.rope.type, RopeType::kLinear);
  EXPECT_EQ(c.rope.factor, 4);
  c = read_tiny("llama-dynamic");
  EXPECT_EQ(c.rope.type, RopeType::kDynamic);
  EXPECT_EQ(c.rope.factor, 2);
  EXPECT_EQ(c.max_position_embeddings, 16);
  c = read_tiny("llama-llama3");
  EXPECT_EQ(c.rope.type, RopeType::kLlama3);
  EXPECT_EQ(c.rope.factor, 8);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 64);
  EXPECT_EQ(c.rope.low_freq_factor, 1);
  EXPECT_EQ(c.rope.high_freq_factor, 4);
  c = read_tiny("llama-yarn-mscale");
  EXPECT_EQ(c.rope.type, RopeType::kYarn);
  EXPECT_EQ(c.rope.theta, 100);
  EXPECT_EQ(c.rope.mscale, 3);
  EXPECT_EQ(c.rope.mscale_all_dim, 0.5);
  EXPECT_EQ(c.rope.beta_fast, 4);
  EXPECT_EQ(c.rope.beta_slow, 0.5);
  EXPECT_TRUE(c.rope.truncate);
  c = read_tiny("llama-yarn-attention-factor");
  EXPECT_EQ(c.rope.attention_factor, 1.4);
  EXPECT_FALSE(c.rope.truncate);
}

TEST(ModelConfig, WindowsOfMistralQwenAndPhi) {
  EXPECT_EQ(read_tiny("mistral").sliding_window, Windows({9, 9}));
  EXPECT_EQ(read_tiny("mistral").head_dim, 12);
  EXPECT_EQ(read_tiny("qwen2").sliding_window, Windows({0, 0}));
  EXPECT_EQ(read_tiny("qwen2-window").sliding_window, Windows({0, 8}));
  EXPECT_EQ(read_tiny("qwen3").sliding_window, Windows({0, 0}));
  EXPECT_EQ(read_tiny("phi3").sliding_window, Windows({10, 10}));
  EXPECT_EQ(read_tiny("phi3").rope.partial_rotary_factor, 0.75);
  const ModelConfig qwen2 = read_tiny("qwen2");
  EXPECT_TRUE(qwen2.attention_bias);
  EXPECT_FALSE(qwen2.attention_output_bias);
}

TEST(ModelConfig, MissingAndNullWindowsOfMistralDiffer) {
  json c = small_config();
  c["model_type"] = "mistral";
  EXPECT_EQ(read(c).sliding_window, Windows({4096}));
  c["sliding_window"] = nullptr;
  EXPECT_EQ(read(c).sliding_window, Windows({0}));
}

TEST(ModelConfig, QwenWindowsBeginAtMaxWindowLayers) {
  json c = small_config();
  c["model_type"] = "qwen3";
  c["num_hidden_layers"] = 4;
  c["sliding_window"] = 5;
  c["max_window_layers"] = 3;
  EXPECT_EQ(read(c).sliding_window, Windows({0, 0, 0, 0}));
  c["use_sliding_window"] = true;
  EXPECT_EQ(read(c).sliding_window, Windows({0, 0, 0, 5}));
  c["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(read(c).sliding_window, Windows({5, 0, 0, 0}));
  c["use_sliding_window"] = false;
  check_error(expect<FormatError>({"config.json", "sliding_window"}), [&] { read(c); });
}

TEST(ModelConfig, Gemma2) {
  const ModelConfig c = read_tiny("gemma2");
  EXPECT_EQ(c.sliding_window, Windows({7, 0}));
  EXPECT_EQ(c.attention_logit_softcapping, 4);
  EXPECT_EQ(c.final_logit_softcapping, 3);
  EXPECT_DOUBLE_EQ(c.query_scale, 1 / std::sqrt(24.0));
  EXPECT_DOUBLE_EQ(c.embedding_multiplier, std::sqrt(32.0));
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_TRUE(c.tie_word_embeddings);
  json j = json::parse(test::file_content(tiny_model("gemma2/config.json")));
  j["attn_logit_softcapping"] = nullptr;
  j.erase("final_logit_softcapping");
  EXPECT_EQ(read(j).attention_logit_softcapping, 0);
  EXPECT_EQ(read(j).final_logit_softcapping, 30);
}

TEST(ModelConfig, Gemma3) {
  ModelConfig c = read_tiny("gemma3");
  EXPECT_EQ(c.sliding_window, Windows({6, 6, 6, 6, 6, 0}));
  EXPECT_EQ(c.layer_uses_local_rope, std::vector<bool>({true, true, true, true, true, false}));
  EXPECT_EQ(c.rope.type, RopeType::kLinear);
  EXPECT_EQ(c.rope.factor, 2);
  EXPECT_EQ(c.rope.theta, 1000);
  EXPECT_EQ(c.local_rope.type, RopeType::kDefault);
  EXPECT_EQ(c.local_rope.theta, 10000);
  EXPECT_EQ(c.attention_logit_softcapping, 0);
  EXPECT_EQ(c.torch_dtype, "bfloat16");
  c = read_tiny("gemma3-pattern");
  EXPECT_EQ(c.sliding_window, Windows({7, 0, 7}));
  EXPECT_EQ(c.rope.theta, 400);
  EXPECT_EQ(c.local_rope.theta, 100);
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_DOUBLE_EQ(c.query_scale, 1 / std::sqrt(20.0));
}

// The multimodal Gemma 3 files leave these out.
TEST(ModelConfig, DefaultsOfTheFamilies) {
  const ModelConfig gemma = read({{"model_type", "gemma3_text"},
                                  {"hidden_size", 2560},
                                  {"intermediate_size", 10240},
                                  {"num_hidden_layers", 34},
                                  {"sliding_window", 1024},
                                  {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}}});
  EXPECT_EQ(gemma.vocab_size, 262208);
  EXPECT_EQ(gemma.num_attention_heads, 8);
  EXPECT_EQ(gemma.num_key_value_heads, 4);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.max_position_embeddings, 131072);
  EXPECT_EQ(gemma.rope.theta, 1e6);
  EXPECT_EQ(gemma.rope.factor, 8);
  EXPECT_EQ(gemma.local_rope.factor, 1);
  EXPECT_DOUBLE_EQ(gemma.query_scale, 1 / 16.0);
  json qwen3 = small_config();
  qwen3["model_type"] = "qwen3";
  qwen3["num_attention_heads"] = 3;  // does not divide hidden_size, which matters only where head_dim follows from it
  EXPECT_EQ(read(qwen3).head_dim, 128);
  EXPECT_DOUBLE_EQ(read(qwen3).query_scale, 1 / std::sqrt(128.0));
  json llama = small_config();
  llama.erase("num_key_value_heads");
  EXPECT_EQ(read(llama).num_key_value_heads, 2);
}

// Only Llama's MLP has biases, and the attention of Mistral and Phi-3 has none, whatever a config says.
TEST(ModelConfig, BiasesOfTheFamilies) {
  json c = small_config();
  c["attention_bias"] = true;
  c["mlp_bias"] = true;
  const std::map<std::string, std::vector<bool>> table = {
      {"llama", {true, true, true}},       {"mistral", {false, false, false}}, {"phi3", {false, false, false}},
      {"qwen2", {true, false, false}},     {"qwen3", {true, true, false}},     {"gemma2", {true, true, false}},
      {"gemma3_text", {true, true, false}}};
  for (const auto& [type, expected] : table) {
    c["model_type"] = type;
    const ModelConfig m = read(c);
    EXPECT_EQ(std::vector<bool>({m.attention_bias, m.attention_output_bias, m.mlp_bias}), expected) << type;
  }
}

TEST(ModelConfig, SeveralEndTokens) {
  json c = small_config();
  c["eos_token_id"] = {5, 7, -1};
  EXPECT_EQ(read(c).eos_token_ids, std::vector<int32_t>({5, 7}));
  c["eos_token_id"] = nullptr;
  EXPECT_TRUE(read(c).eos_token_ids.empty());
}

TEST(ModelConfig, OldRopeScalingWinsAndEmptyOneDoesNot) {
  json c = small_config();
  c["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 7.0}};
  EXPECT_EQ(read(c).rope.theta, 7);
  c["rope_scaling"] = json::object();
  EXPECT_EQ(read(c).rope.factor, 2);
  c["rope_scaling"] = {{"type", "linear"}, {"factor", 3.0}};
  EXPECT_EQ(read(c).rope.factor, 3);
}

struct Damage {
  std::string name;
  std::function<void(json&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}

class DamagedConfig : public testing::TestWithParam<Damage> {};

TEST_P(DamagedConfig, IsRefused) {
  json c = small_config();
  GetParam().change(c);
  test::Expected expected = GetParam().expected;
  expected.texts.push_back("config.json");
  check_error(expected, [&] { read(c); });
}

Damage set(const std::string& name, const std::string& key, const json& value, std::vector<std::string> texts) {
  texts.push_back(key);
  return {name, [key, value](json& c) { c[key] = value; }, expect<FormatError>(texts)};
}
Damage without(const std::string& key) {
  return {"missing_" + key, [key](json& c) { c.erase(key); }, expect<FormatError>({key, "expected", "found nothing"})};
}
json llama3_with(const char* key, const json& value) {
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 8},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 16}};
  scaling[key] = value;
  return scaling;
}
json llama3_without(const char* key) {
  json scaling = llama3_with(key, 1);
  scaling.erase(key);
  return scaling;
}
Damage rope(const std::string& name, const json& value, test::Expected expected) {
  return {name, [value](json& c) { c["rope_scaling"] = value; }, std::move(expected)};
}

INSTANTIATE_TEST_SUITE_P(
    Config, DamagedConfig,
    testing::Values(
        without("vocab_size"), without("hidden_size"), without("intermediate_size"), without("num_hidden_layers"),
        without("num_attention_heads"), set("hidden_size_is_a_string", "hidden_size", "16", {"integer", "\"16\""}),
        set("hidden_size_is_fractional", "hidden_size", 16.5, {"16.5"}),
        set("hidden_size_is_negative", "hidden_size", -16, {"-16"}),
        set("hidden_size_is_zero", "hidden_size", 0, {"found 0"}),
        set("hidden_size_beyond_31_bits", "hidden_size", int64_t{1} << 31, {"2147483647", "2147483648"}),
        set("hidden_size_beyond_63_bits", "hidden_size", UINT64_MAX, {"18446744073709551615"}),
        set("too_many_layers", "num_hidden_layers", 1000000000, {"100000"}),
        set("layers_is_an_array", "num_hidden_layers", {1}, {"[1]"}),
        set("heads_do_not_divide_hidden", "num_attention_heads", 3, {"divisor of hidden_size (16)"}),
        set("kv_heads_do_not_divide_heads", "num_key_value_heads", 4,
            {"divisor of num_attention_heads (2)", "found 4"}),
        set("kv_heads_zero", "num_key_value_heads", 0, {"found 0"}),
        set("odd_head_dim", "head_dim", 7, {"even", "found 7"}),
        set("eps_is_a_string", "rms_norm_eps", "1e-5", {"number"}),
        set("eps_is_negative", "rms_norm_eps", -1e-5, {"number from 0 to 1"}),
        set("eps_is_nan", "rms_norm_eps", std::nan(""), {"number"}),
        set("theta_is_infinite", "rope_theta", INFINITY, {"number"}),
        set("theta_is_zero", "rope_theta", 0, {"number from 1"}),
        set("tie_is_a_number", "tie_word_embeddings", 1, {"true or false"}),
        set("bias_is_a_string", "attention_bias", "false", {"true or false"}),
        set("model_position_zero", "max_position_embeddings", 0, {"found 0"}),
        set("eos_wraps_around", "eos_token_id", UINT64_MAX, {"18446744073709551615"}),
        set("eos_list_holds_text", "eos_token_id", {1, "x"}, {"array"}),
        set("bos_is_huge", "bos_token_id", int64_t{1} << 40, {"1099511627776"}),
        set("dtype_is_a_number", "torch_dtype", 16, {"a string"}),
        set("partial_rotary_of_nothing", "partial_rotary_factor", 0.1, {"even number of the 8"}),
        set("partial_rotary_odd", "partial_rotary_factor", 0.4, {"even number of the 8"}),
        set("partial_rotary_above_one", "partial_rotary_factor", 1.5, {"1.5"}),
        set("rope_is_a_list", "rope_scaling", {1, 2}, {"an object"}),
        rope("rope_without_factor", {{"type", "linear"}},
             expect<FormatError>({"rope_scaling.factor", "found nothing"})),
        rope("rope_factor_zero", {{"rope_type", "linear"}, {"factor", 0}},
             expect<FormatError>({"rope_scaling.factor"})),
        rope("rope_type_is_a_number", {{"rope_type", 4}}, expect<FormatError>({"rope_scaling.rope_type", "a string"})),
        rope("llama3_bounds_crossed",
             {{"rope_type", "llama3"},
              {"factor", 8},
              {"low_freq_factor", 4},
              {"high_freq_factor", 1},
              {"original_max_position_embeddings", 16}},
             expect<FormatError>({"rope_scaling.high_freq_factor", "low_freq_factor (4)"})),
        rope("longrope_without_factors", {{"type", "longrope"}},
             expect<FormatError>({"rope_scaling.short_factor", "found nothing"})),
        rope("longrope_factors_too_few",
             {{"type", "su"}, {"factor", 2.0}, {"short_factor", {1.0, 2.0}}, {"long_factor", {1.0, 2.0}}},
             expect<FormatError>({"short_factor", "found 2"})),
        rope("longrope_factor_is_text", {{"type", "longrope"}, {"short_factor", {"a"}}, {"long_factor", {1}}},
             expect<FormatError>({"rope_scaling.short_factor", "array of numbers"})),
        rope("llama3_without_low_freq_factor", llama3_without("low_freq_factor"),
             expect<FormatError>({"rope_scaling.low_freq_factor", "llama3", "found nothing"})),
        rope("llama3_without_high_freq_factor", llama3_without("high_freq_factor"),
             expect<FormatError>({"rope_scaling.high_freq_factor", "llama3", "found nothing"})),
        rope("llama3_without_original", llama3_without("original_max_position_embeddings"),
             expect<FormatError>({"rope_scaling.original_max_position_embeddings", "llama3", "found nothing"})),
        rope("llama3_without_factor", llama3_without("factor"), expect<FormatError>({"rope_scaling.factor"})),
        rope("llama3_original_zero", llama3_with("original_max_position_embeddings", 0),
             expect<FormatError>({"rope_scaling.original_max_position_embeddings", "found 0"})),
        rope("llama3_low_freq_factor_negative", llama3_with("low_freq_factor", -1.0),
             expect<FormatError>({"rope_scaling.low_freq_factor", "found -1"})),
        rope("llama3_high_freq_factor_nan", llama3_with("high_freq_factor", NAN),
             expect<FormatError>({"rope_scaling.high_freq_factor", "found nan"})),
        rope("yarn_without_factor", {{"type", "yarn"}}, expect<FormatError>({"rope_scaling.factor", "found nothing"})),
        rope("dynamic_without_factor", {{"type", "dynamic"}},
             expect<FormatError>({"rope_scaling.factor", "found nothing"})),
        rope("longrope_without_length",
             {{"type", "longrope"}, {"short_factor", {1.0, 1.0, 1.0, 1.0}}, {"long_factor", {1.0, 1.0, 1.0, 1.0}}},
             expect<FormatError>({"rope_scaling.original_max_position_embeddings", "longrope"})),
        rope("mrope_without_section", {{"type", "mrope"}}, expect<FormatError>({"rope_scaling.mrope_section"})),
        rope("scaling_without_a_type", {{"factor", 8.0}},
             expect<FormatError>({"rope_scaling.rope_type", "factor", "linear"})),
        rope("scaling_with_a_null_type", {{"type", nullptr}, {"low_freq_factor", 8.0}},
             expect<FormatError>({"rope_scaling.rope_type", "low_freq_factor"})),
        rope("rope_unknown", {{"type", "spiral"}}, expect<UnsupportedError>({"spiral", "longrope"})),
        Damage{"activation_unknown", [](json& c) { c["hidden_act"] = "mish"; },
               expect<UnsupportedError>({"hidden_act", "mish", "silu"})},
        Damage{"phi3_yarn_means_longrope",
               [](json& c) {
                 c["model_type"] = "phi3";
                 c["rope_scaling"] = {{"type", "yarn"}, {"factor", 2}};
               },
               expect<UnsupportedError>({"longrope"})},
        Damage{"layer_types_too_few",
               [](json& c) {
                 c["model_type"] = "gemma3_text";
                 c["num_hidden_layers"] = 3;
                 c["layer_types"] = {"full_attention"};
               },
               expect<FormatError>({"layer_types", "expected 3", "found 1"})},
        Damage{"layer_type_unknown",
               [](json& c) {
                 c["model_type"] = "gemma2";
                 c["layer_types"] = {"linear_attention"};
               },
               expect<UnsupportedError>({"layer_types[0]", "linear_attention"})},
        Damage{"layer_types_of_numbers",
               [](json& c) {
                 c["model_type"] = "gemma2";
                 c["layer_types"] = {1};
               },
               expect<FormatError>({"layer_types", "array of strings"})},
        Damage{"encoder",
               [](json& c) {
                 c["model_type"] = "gemma3_text";
                 c["use_bidirectional_attention"] = true;
               },
               expect<UnsupportedError>({"use_bidirectional_attention"})},
        Damage{"window_negative",
               [](json& c) {
                 c["model_type"] = "mistral";
                 c["sliding_window"] = -4;
               },
               expect<FormatError>({"sliding_window", "-4"})},
        Damage{"query_scalar_zero",
               [](json& c) {
                 c["model_type"] = "gemma2";
                 c["query_pre_attn_scalar"] = 0;
               },
               expect<FormatError>({"query_pre_attn_scalar"})}),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

}  // namespace
}  // namespace metal_marlin
