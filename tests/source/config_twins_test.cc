// Keys of a config that say the same thing twice: which counts, and what is said. What counts is what transformers 5.24
// makes of the same keys.
#include <algorithm>

#include "source/models.h"

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
