// Keys of a config that say the same thing twice: which counts, and what is said. What counts is what transformers 5.24
// makes of the same keys.
#include <algorithm>

#include "checkpoint/models.h"
#include "families/config/read_model_config.h"
#include "families/registry.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::small_config;
using test::TemporaryFolder;
using test::warns;

std::unique_ptr<ModelSource> open_with(const TemporaryFolder& folder, const json& keys, json config = small_config()) {
  config.update(keys);
  test::write_small_model(folder, config);
  return ModelSource::open(folder.path(""));
}

TEST(ConfigTwins, RopeTypeCountsOverType) {
  TemporaryFolder folder;
  const auto source =
      open_with(folder, {{"rope_scaling", {{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2.0}}}});
  EXPECT_EQ(source->config().rope.type, RopeType::kDynamic);
  EXPECT_TRUE(warns(*source, {"rope_scaling.rope_type is \"dynamic\"", "rope_scaling.type is \"linear\""}));
  // Two names of one thing.
  for (const char* old : {"default", "mrope"}) {
    TemporaryFolder other;
    EXPECT_TRUE(open_with(other, {{"rope_scaling", {{"type", old}, {"rope_type", "default"}}}})->warnings().empty());
  }
}

TEST(ConfigTwins, TheInnerNumberCounts) {
  TemporaryFolder folder;
  const auto theta = open_with(
      folder, {{"rope_theta", 5000.0}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7000.0}}}});
  EXPECT_EQ(theta->config().rope.theta, 7000.0);
  EXPECT_TRUE(warns(*theta, {"rope_theta is 5000", "rope_parameters.rope_theta is 7000"}));
  const auto share =
      open_with(folder, {{"partial_rotary_factor", 0.5},
                         {"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}}});
  EXPECT_EQ(share->config().rope.partial_rotary_factor, 0.25);
  EXPECT_TRUE(warns(*share, {"partial_rotary_factor is 0.5", "rope_parameters.partial_rotary_factor is 0.25"}));
  const auto equal = open_with(
      folder, {{"rope_theta", 5000}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}});
  EXPECT_TRUE(equal->warnings().empty());
}

TEST(ConfigTwins, TwoOriginalLengthsAreRefused) {
  TemporaryFolder folder;
  check_error(expect<FormatError>({"original_max_position_embeddings is 16", "is 8", "remove the wrong one"}), [&] {
    open_with(folder,
              {{"original_max_position_embeddings", 16},
               {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 8}}}});
  });
}

TEST(ConfigTwins, ScalingCountsOverParameters) {
  TemporaryFolder folder;
  const auto source =
      open_with(folder, {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}},
                         {"rope_parameters", {{"rope_type", "dynamic"}, {"factor", 4.0}, {"rope_theta", 7000.0}}}});
  EXPECT_EQ(source->config().rope.type, RopeType::kLinear);
  EXPECT_EQ(source->config().rope.theta, 10000.0);
  EXPECT_TRUE(warns(*source, {"rope_scaling is", "rope_parameters is", "\"dynamic\""}));
  const auto same =
      open_with(folder, {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
                         {"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 10000.0}}}});
  EXPECT_TRUE(same->warnings().empty());
}

// Gemma 3, with one set of rotary parameters for each of the layers' types.
ModelConfig gemma3(const json& keys, const std::vector<std::string>& without = {}) {
  json config = {{"model_type", "gemma3_text"}, {"hidden_size", 16}, {"intermediate_size", 24},
                 {"num_hidden_layers", 3},      {"head_dim", 8},     {"sliding_window_pattern", 2}};
  for (const std::string& key : without) config.erase(key);
  config.update(keys);
  return read_model_config(config, find_family(config, "config.json"), "config.json");
}
bool says(const ModelConfig& config, const std::vector<std::string>& texts) {
  return std::any_of(config.warnings.begin(), config.warnings.end(), [&](const std::string& warning) {
    return std::all_of(texts.begin(), texts.end(),
                       [&](const std::string& text) { return warning.find(text) != std::string::npos; });
  });
}

TEST(ConfigTwins, ScalingCountsOverTheSetOfFullAttention) {
  const json linear = {{"rope_type", "linear"}, {"factor", 8.0}};
  const json nested = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 5000.0}}},
                       {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 300.0}}}};
  const ModelConfig both = gemma3({{"rope_scaling", linear}, {"rope_parameters", nested}});
  EXPECT_EQ(both.rope.type, RopeType::kLinear);
  EXPECT_EQ(both.rope.theta, 5000);
  EXPECT_EQ(both.local_rope.type, RopeType::kDefault);
  EXPECT_EQ(both.local_rope.theta, 300);
  EXPECT_TRUE(says(both, {"rope_scaling is", "rope_parameters.full_attention is", "rope_scaling counts"}));
  json same = nested;
  same["full_attention"].update(linear);
  EXPECT_TRUE(gemma3({{"rope_scaling", linear}, {"rope_parameters", same}}).warnings.empty());
  EXPECT_TRUE(
      gemma3({{"rope_scaling", {{"type", "linear"}, {"factor", 8.0}}}, {"rope_parameters", same}}).warnings.empty());
  EXPECT_TRUE(gemma3({{"rope_parameters", nested}}).warnings.empty());
  // What stands beside the sets is compared with them as before.
  EXPECT_TRUE(says(gemma3({{"rope_scaling", linear}, {"rope_parameters", same}, {"rope_local_base_freq", 400}}),
                   {"rope_local_base_freq is 400"}));
}

// transformers 5.24 takes the sets by name, and no other keys of rope_parameters.
TEST(ConfigTwins, OneSetDoesNotCountWhereThereAreTwo) {
  const ModelConfig flat =
      gemma3({{"rope_parameters", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5000.0}}}});
  EXPECT_EQ(flat.rope.type, RopeType::kDefault);
  EXPECT_EQ(flat.rope.theta, 1e6);
  EXPECT_EQ(flat.local_rope.theta, 10000);
  EXPECT_TRUE(says(flat, {"rope_parameters holds one set", "not used", "1e+06 and 10000"}));
  EXPECT_TRUE(gemma3({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1000000}}}}).warnings.empty());
  const ModelConfig sliding = gemma3({{"rope_parameters", {{"sliding_attention", {{"rope_theta", 300.0}}}}}});
  EXPECT_EQ(sliding.local_rope.theta, 300);
  EXPECT_EQ(sliding.rope.theta, 1e6);
  EXPECT_TRUE(sliding.warnings.empty());
  // Other families have one set.
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    json config = small_config();
    config[key] = {{"full_attention", {{"rope_theta", 5000.0}}}};
    check_error(expect<FormatError>({std::string("config.json: ") + key, "one set of parameters", "llama"}),
                [&] { read_model_config(config, find_family(config, "config.json"), "config.json"); });
  }
}

TEST(ConfigTwins, APartOfEachHeadIsSaidForGemma3Too) {
  for (const json& keys : {json{{"partial_rotary_factor", 0.5}},
                           json{{"rope_parameters", {{"full_attention", {{"partial_rotary_factor", 0.5}}}}}},
                           json{{"rope_parameters", {{"sliding_attention", {{"partial_rotary_factor", 0.5}}}}}}})
    EXPECT_TRUE(says(gemma3(keys), {"partial_rotary_factor: turns 4 of the 8 dimensions", "gemma3"})) << keys;
  check_error(expect<FormatError>({"partial_rotary_factor", "an even number of the 8 dimensions", "found 3"}),
              [&] { gemma3({{"rope_parameters", {{"sliding_attention", {{"partial_rotary_factor", 0.4}}}}}}); });
}

TEST(ConfigTwins, LayerTypesCountOverPatterns) {
  const json types = {"sliding_attention", "full_attention", "sliding_attention"};
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"}) {
    const ModelConfig other = gemma3({{"layer_types", types}, {key, 3}}, {"sliding_window_pattern"});
    EXPECT_EQ(other.sliding_window[1], 0);
    EXPECT_GT(other.sliding_window[2], 0);
    EXPECT_TRUE(says(other, {std::string(key) + " is 3", "layer 1 is sliding_attention", "layer_types counts"}));
    EXPECT_FALSE(says(other, {"pattern counts"}));
    EXPECT_TRUE(gemma3({{"layer_types", types}, {key, 2}}, {"sliding_window_pattern"}).warnings.empty());
  }
  const ModelConfig both = gemma3({{"layer_types", types}, {"_sliding_window_pattern", 3}});
  EXPECT_EQ(both.warnings.size(), 1u);
  EXPECT_TRUE(says(both, {"_sliding_window_pattern is 3", "layer_types counts"}));
  EXPECT_TRUE(says(gemma3({{"_sliding_window_pattern", 3}}), {"sliding_window_pattern counts"}));
}

TEST(ConfigTwins, OtherPairs) {
  TemporaryFolder folder;
  const auto types = open_with(folder, {{"dtype", "float16"}, {"torch_dtype", "bfloat16"}});
  EXPECT_EQ(types->config().torch_dtype, "float16");
  EXPECT_TRUE(warns(*types, {"dtype is \"float16\"", "torch_dtype is \"bfloat16\""}));
  EXPECT_TRUE(warns(*open_with(folder, {{"num_kv_heads", 2}}), {"num_key_value_heads is 1", "num_kv_heads is 2"}));
  // head_dim may differ from hidden_size / heads.
  EXPECT_TRUE(open_with(folder, {{"head_dim", 8}})->warnings().empty());
}

TEST(ConfigTwins, TheWrapperCountsOverItsTextModel) {
  const SafetensorsFile raw(test::tiny_model("gemma3-pattern/model.safetensors"));
  json text = json::parse(test::file_content(test::tiny_model("gemma3-pattern/config.json")));
  text["tie_word_embeddings"] = false;
  text["eos_token_id"] = 1;
  TemporaryFolder folder;
  folder.write(
      "config.json",
      json{{"model_type", "gemma3"}, {"text_config", text}, {"tie_word_embeddings", true}, {"eos_token_id", {1, 6}}}
          .dump());
  std::vector<TensorView> tensors(raw.tensors().begin(), raw.tensors().end());
  for (TensorView& t : tensors) t.name = "language_model." + t.name;
  write_safetensors(folder.path("model.safetensors"), tensors);
  const auto source = ModelSource::open(folder.path(""));
  EXPECT_TRUE(source->config().tie_word_embeddings);
  EXPECT_EQ(source->config().eos_token_ids, (std::vector<int32_t>{1, 6}));
  EXPECT_TRUE(warns(*source, {"tie_word_embeddings is true", "text_config.tie_word_embeddings is false"}));
  EXPECT_TRUE(warns(*source, {"eos_token_id is [1,6]", "text_config.eos_token_id is 1"}));
}

// ---- ids without a row ----------------------------------------------------------------------------------------------

TEST(TokenIds, BeyondTheVocabularyAreSaid) {
  TemporaryFolder folder;
  const auto config = open_with(folder, {{"eos_token_id", {2, 128009}}, {"bos_token_id", 128000}});
  EXPECT_TRUE(warns(*config, {"eos_token_id 128009", "vocab_size 12"}));
  EXPECT_FALSE(warns(*config, {"no text would end"}));
  EXPECT_TRUE(warns(*config, {"bos_token_id 128000", "vocab_size 12"}));
  folder.write("generation_config.json", R"({"eos_token_id": 12})");
  const auto generation = open_with(folder, json::object());
  EXPECT_TRUE(warns(*generation, {"eos_token_id 12 ", "generation_config.json", "no text would end"}));
  folder.write("generation_config.json", R"({"eos_token_id": 11})");
  EXPECT_TRUE(open_with(folder, {{"eos_token_id", 0}, {"bos_token_id", 11}})->warnings().empty());
}

}  // namespace
}  // namespace metal_marlin
