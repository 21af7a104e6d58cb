// Tensors that the family has no place for: refused where the model computes something else without them, left out
// with a warning where they are no part of it.
#include "families/config/surplus_tensors.h"

#include <algorithm>

#include "checkpoint/gguf_hand_made.h"
#include "checkpoint/models.h"
#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::HandMade;
using test::small_config;
using test::small_shapes;
using test::TemporaryFolder;
using test::warns;

const std::string kLayer = "model.layers.0.";

std::unique_ptr<ModelSource> with(const TemporaryFolder& folder, const std::string& name,
                                  const std::vector<int64_t>& shape = {8}) {
  auto shapes = small_shapes();
  shapes[name] = shape;
  test::write_small_model(folder, small_config(), shapes);
  return ModelSource::open(folder.path(""));
}

TEST(SurplusTensors, OfTheModelAreRefused) {
  for (const std::string& name : {kLayer + "self_attn.q_norm.weight", kLayer + "post_feedforward_layernorm.weight",
                                  kLayer + "mlp.experts.0.up_proj.weight", kLayer + "self_attn.sinks",
                                  kLayer + "layer_scalar", std::string("model.embed_positions.weight"),
                                  std::string("model.embed_norm.weight"), std::string("embed_layernorm.weight"),
                                  std::string("lm_head.weight_scale"), std::string("language_model.norm.weight")}) {
    TemporaryFolder folder;
    const auto source = with(folder, name);
    check_error(expect<UnsupportedError>({name, "no place in the family llama", "another model", "model_type"}),
                [&] { source->check(); });
  }
}

TEST(SurplusTensors, AMessageNamesSomeAndCountsAll) {
  TemporaryFolder folder;
  auto shapes = small_shapes();
  for (int i = 0; i < 6; ++i) shapes[kLayer + "mlp.experts." + std::to_string(i) + ".up_proj.weight"] = {8};
  test::write_small_model(folder, small_config(), shapes);
  check_error(expect<UnsupportedError>({"6 tensors", "experts.3.", "and 2 more"}),
              [&] { ModelSource::open(folder.path(""))->check(); });
}

TEST(SurplusTensors, TablesAndMasksAreIgnored) {
  const std::pair<std::string, std::vector<int64_t>> cases[] = {{kLayer + "self_attn.rotary_emb.inv_freq", {4}},
                                                                {"model.rotary_emb.inv_freq", {4}},
                                                                {kLayer + "self_attn.rotary_emb.cos_cached", {4, 8}},
                                                                {kLayer + "attn.bias", {1, 1, 4, 4}},
                                                                {kLayer + "attn.masked_bias", {1}},
                                                                {kLayer + "self_attn.masked_bias", {1}},
                                                                {"rope.freqs", {4}}};
  for (const auto& [name, shape] : cases) {
    TemporaryFolder folder;
    const auto source = with(folder, name, shape);
    EXPECT_NO_THROW(source->check()) << name;
    EXPECT_TRUE(source->warnings().empty()) << name;
  }
  // Masks of truth values, which no writer of ours could copy.
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  auto tensors = test::f32_tensors(small_shapes());
  tensors.push_back({kLayer + "attn.bias", DType::kBool, {1, 1, 4, 4}, Buffer(16)});
  std::memset(tensors.back().bytes.data(), 1, 16);
  write_safetensors(folder.path("model.safetensors"), tensors);
  const auto source = ModelSource::open(folder.path(""));
  EXPECT_NO_THROW(source->check());
  EXPECT_FALSE(source->has(kLayer + "attn.bias"));
}

TEST(SurplusTensors, LayersBeyondTheConfigAndOtherPartsAreSaid) {
  const auto said = [](const std::string& name, const std::vector<std::string>& texts) {
    TemporaryFolder folder;
    const auto source = with(folder, name);
    EXPECT_NO_THROW(source->check()) << name;
    EXPECT_TRUE(warns(*source, texts)) << name;
    EXPECT_FALSE(source->has(name));
    ASSERT_EQ(source->left_out().size(), 1U) << name;
    EXPECT_EQ(source->left_out()[0].name, name);
  };
  said("model.layers.1.eh_proj.weight", {"1 tensor of layer 1 is left out", "num_hidden_layers 1", "MTP"});
  said("model.vision_tower.blocks.0.weight", {"1 of model.vision_tower", "left out"});
  said("vision_model.patch.weight", {"1 of vision_model", "left out"});
  said("mtp.layers.0.eh_proj.weight", {"1 of mtp", "left out"});
  said("score.weight", {"score.weight", "left out"});
  said("v_head.summary.weight", {"1 of v_head", "left out"});
  said(kLayer + "self_attn.k_scale", {"key-value cache", kLayer + "self_attn.k_scale"});
}

TEST(SurplusTensors, TheTinyModelsHaveNone) {
  for (const std::string name :
       {"gemma2", "gemma3", "gemma3-pattern", "llama", "llama-bias", "llama-dynamic", "llama-linear", "llama-llama3",
        "mistral", "phi3", "phi3-longrope", "qwen2", "qwen2-window", "qwen2-yarn", "qwen3"}) {
    const auto source = ModelSource::open(test::tiny_model(name));
    EXPECT_NO_THROW(source->check()) << name;
    EXPECT_TRUE(source->left_out().empty()) << name;
  }
}

TEST(SurplusTensors, OfGguf) {
  TemporaryFolder folder;
  const auto made_with = [&](const std::string& name) {
    HandMade made;
    made.tensors.emplace_back(name, std::pair<int64_t, uint32_t>{0, 0});
    return made.open(folder);
  };
  for (const std::string name : {"blk.0.attn_q_norm.weight", "blk.0.post_ffw_norm.weight", "blk.0.attn_q.scale",
                                 "blk.0.ffn_gate_inp.weight", "token_embd_norm.weight", "position_embd.weight"}) {
    check_error(expect<UnsupportedError>({name, "no place in the family llama", "general.architecture"}),
                [&] { made_with(name)->check(); });
  }
  for (const auto& [name, texts] : {std::pair{"blk.1.nextn.eh_proj.weight", std::vector<std::string>{"layer 1", "MTP"}},
                                    {"v.blk.0.attn_q.weight", {"1 of v", "left out"}},
                                    {"mm.0.weight", {"1 of mm", "left out"}}}) {
    const auto source = made_with(name);
    EXPECT_NO_THROW(source->check()) << name;
    EXPECT_TRUE(warns(*source, texts)) << name;
  }
  EXPECT_NO_THROW(made_with("blk.0.attn_rot_embd")->check());
}

// ---- biases of GGUF ------------------------------------------------------------------------------------------------

std::string floats(const std::vector<float>& values) {
  std::string out;
  for (const float v : values) out += test::little(v);
  return out;
}

TEST(GgufBiases, ZerosOnSingleLinearsAreLeftOut) {
  TemporaryFolder folder;
  for (const std::string linear : {"attn_q", "attn_output", "ffn_gate", "ffn_down"}) {
    const std::string name = "blk.0." + linear + ".bias";
    HandMade made;
    made.tensors.emplace_back(name, std::pair<int64_t, uint32_t>{0, 0});
    made.data[name] = floats(std::vector<float>(32, 0.0F));
    const auto source = made.open(folder);
    EXPECT_NO_THROW(source->check()) << name;
    EXPECT_EQ(source->config_json()["attention_bias"], false);
    EXPECT_EQ(source->config_json()["mlp_bias"], false);
    EXPECT_TRUE(warns(*source, {"1 bias", "zeros"})) << name;
  }
}

TEST(GgufBiases, OthersOnSingleLinearsAreRefusedByName) {
  TemporaryFolder folder;
  for (const auto& [linear, lacks] : {std::pair{"attn_q", "blk.0.attn_k.bias"},
                                      {"attn_output", "blk.0.attn_k.bias"},
                                      {"ffn_down", "blk.0.ffn_gate.bias"}}) {
    HandMade made;
    made.tensors.emplace_back(std::string("blk.0.") + linear + ".bias", std::pair<int64_t, uint32_t>{0, 0});
    const auto source = made.open(folder);
    check_error(expect<FormatError>({lacks, "not zero", "on all of them or on none"}), [&] { source->check(); });
  }
}

}  // namespace
}  // namespace metal_marlin
