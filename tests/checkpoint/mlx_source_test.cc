// Checkpoints of MLX and compressed-tensors as others write them.
#include "checkpoint/models.h"
#include "core/half.h"
#include "core/random.h"
#include "pack/compressed_tensors.h"
#include "pack/mlx.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::f32_tensor;
using test::TemporaryFolder;

const std::string kEmbedding = "model.embed_tokens.weight";

// A Llama whose matrices have rows of 32 or 64, all of them quantized.
struct Wide {
  json config = test::small_config();
  std::map<std::string, std::vector<int64_t>> shapes;
  std::map<std::string, QuantizedTensor> codes;
  std::vector<OwnedTensor> tensors;

  Wide() {
    config["hidden_size"] = 32;
    config["intermediate_size"] = 64;
    config["num_attention_heads"] = 4;
    config["num_key_value_heads"] = 2;
    config["head_dim"] = 8;
    config["num_hidden_layers"] = 1;
    config["tie_word_embeddings"] = true;
    config["vocab_size"] = 24;
    const std::string layer = "model.layers.0.";
    shapes = {{kEmbedding, {24, 32}},
              {"model.norm.weight", {32}},
              {layer + "input_layernorm.weight", {32}},
              {layer + "post_attention_layernorm.weight", {32}},
              {layer + "self_attn.q_proj.weight", {32, 32}},
              {layer + "self_attn.k_proj.weight", {16, 32}},
              {layer + "self_attn.v_proj.weight", {16, 32}},
              {layer + "self_attn.o_proj.weight", {32, 32}},
              {layer + "mlp.gate_proj.weight", {64, 32}},
              {layer + "mlp.up_proj.weight", {64, 32}},
              {layer + "mlp.down_proj.weight", {32, 64}}};
  }
  void add(const std::string& name, PackedTensor packed) {
    for (OwnedTensor& part : packed.parts) {
      part.name = name.substr(0, name.size() - 6) + part.name;
      tensors.push_back(std::move(part));
    }
  }
  static QuantizedTensor random(const std::vector<int64_t>& shape, int bits, int64_t group, uint64_t seed) {
    QuantizedTensor t{.out_features = shape[0], .in_features = shape[1], .group_size = group, .bits = bits};
    Random random(seed);
    t.codes.resize(static_cast<size_t>(shape[0] * shape[1]));
    for (uint8_t& c : t.codes) c = static_cast<uint8_t>(random.below(uint64_t{1} << bits));
    t.scales.resize(static_cast<size_t>(shape[0] * t.groups()));
    for (uint16_t& s : t.scales) s = f32_to_f16(static_cast<float>(0.01 * random.normal()));
    t.zeros.assign(t.scales.size(), static_cast<uint8_t>(1 << (bits - 1)));
    return t;
  }
  void write(const TemporaryFolder& folder) const {
    folder.write("config.json", config.dump());
    write_safetensors(folder.path("model.safetensors"), std::span<const OwnedTensor>(tensors), {{"format", "mlx"}});
  }
};

void expect_values(const ModelSource& source, const std::string& name, const QuantizedTensor& q) {
  const Matrix all = source.load(name);
  const Matrix wanted = dequantize(q);
  ASSERT_TRUE(std::ranges::equal(all.values(), wanted.values())) << name;
  for (int64_t r = 0; r < wanted.rows(); r += 5) {
    const Matrix row = source.load(name, r, 1);
    EXPECT_TRUE(std::ranges::equal(row.values(), wanted.row(r))) << name << " row " << r;
  }
}

void expect_refusal(const TemporaryFolder& folder, const std::vector<std::string>& texts) {
  try {
    ModelSource::open(folder.path(""))->check();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    for (const std::string& text : texts) EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

TEST(MlxSource, ReadsEmbeddingHeadAndModulesOfTheirOwn) {
  TemporaryFolder folder;
  Wide m;
  m.config["quantization"] = {
      {"group_size", 32}, {"bits", 4}, {"model.layers.0.mlp.down_proj", {{"group_size", 64}, {"bits", 8}}}};
  uint64_t seed = 1;
  for (const auto& [name, shape] : m.shapes) {
    if (shape.size() == 1) {
      m.tensors.push_back(f32_tensor(name, shape));
      continue;
    }
    const bool down = name.find("down_proj") != std::string::npos;
    // One that the config does not name: 3 bits, found by its shape.
    const bool o = name.find("o_proj") != std::string::npos;
    QuantizedTensor q = Wide::random(shape, down ? 8 : o ? 3 : 4, down ? 64 : 32, seed++);
    if (name.find("gate_proj") != std::string::npos) {
      q.minima.assign(q.scales.size(), f32_to_f16(-0.031F));
      q.zeros.assign(q.scales.size(), 0);
      q.symmetric = false;
    }
    m.add(name, pack_mlx(q, name));
    m.codes.emplace(name, std::move(q));
  }
  m.write(folder);
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_EQ(source->format(), "mlx");
  for (const auto& [name, q] : m.codes) expect_values(*source, name, q);
  EXPECT_EQ(source->load_quantized("model.layers.0.mlp.gate_proj.weight")->minima.size(), 64u);
  EXPECT_TRUE(source->load_quantized(kEmbedding)->minima.empty());
}

TEST(MlxSource, RefusesWhatItsConfigContradicts) {
  const auto with = [](const json& quantization, const std::vector<std::string>& texts) {
    TemporaryFolder folder;
    Wide m;
    m.config["quantization"] = quantization;
    for (const auto& [name, shape] : m.shapes) {
      if (shape.size() == 1) {
        m.tensors.push_back(f32_tensor(name, shape));
      } else {
        m.add(name, pack_mlx(Wide::random(shape, 4, 32, 3), name));
      }
    }
    m.write(folder);
    expect_refusal(folder, texts);
  };
  with({{"group_size", 32}, {"bits", 4}, {"mode", "mxfp4"}}, {"config.json", "mxfp4", "affine"});
  with({{"group_size", 32}, {"bits", 7}}, {"config.json", "7 bits", "2, 3, 4, 5, 6 or 8"});
  with({{"bits", 4}}, {"config.json", "group_size"});
  with({{"group_size", 32}, {"bits", 4}, {"model.embed_tokens", {{"bits", 9}}}},
       {"config.json", "model.embed_tokens", "9 bits"});
}

TEST(CompressedTensorsSource, ReadsSeveralSchemesByTheirShapes) {
  TemporaryFolder folder;
  Wide m;
  const auto group = [](int bits, int64_t size, const char* target) {
    return json{
        {"targets", {target}},
        {"weights",
         {{"num_bits", bits}, {"type", "int"}, {"symmetric", true}, {"strategy", "group"}, {"group_size", size}}}};
  };
  m.config["quantization_config"] = {
      {"quant_method", "compressed-tensors"},
      {"format", "mixed-precision"},
      {"config_groups", {{"group_0", group(4, 32, "Linear")}, {"group_1", group(8, 16, "re:.*down_proj")}}},
      {"ignore", {"lm_head"}}};
  uint64_t seed = 9;
  for (const auto& [name, shape] : m.shapes) {
    if (shape.size() == 1 || name == kEmbedding) {
      m.tensors.push_back(f32_tensor(name, shape));
      continue;
    }
    const bool down = name.find("down_proj") != std::string::npos;
    QuantizedTensor q = Wide::random(shape, down ? 8 : 4, down ? 16 : 32, seed++);
    if (name.find("up_proj") != std::string::npos) {
      q.symmetric = false;
      for (size_t i = 0; i < q.zeros.size(); ++i) q.zeros[i] = static_cast<uint8_t>(i % 16);
    }
    m.add(name, pack_compressed_tensors(q, name));
    m.codes.emplace(name, std::move(q));
  }
  m.write(folder);
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_EQ(source->format(), "compressed-tensors");
  for (const auto& [name, q] : m.codes) {
    expect_values(*source, name, q);
    EXPECT_EQ(source->load_quantized(name)->zeros, q.zeros) << name;
  }
}

TEST(CompressedTensorsSource, RefusesOtherFormats) {
  const auto with = [](json settings, const std::vector<std::string>& texts) {
    TemporaryFolder folder;
    Wide m;
    settings["quant_method"] = "compressed-tensors";
    m.config["quantization_config"] = std::move(settings);
    m.tensors.push_back(f32_tensor(kEmbedding, {24, 32}));
    m.write(folder);
    expect_refusal(folder, texts);
  };
  const json weights = {{"num_bits", 4}, {"type", "int"}};
  with({{"format", "nvfp4-pack-quantized"}, {"config_groups", {{"g", {{"weights", weights}}}}}},
       {"nvfp4", "pack-quantized"});
  with({{"format", "pack-quantized"}}, {"config_groups"});
  with({{"config_groups", {{"g", {{"weights", {{"num_bits", 4}, {"type", "float"}}}}}}}}, {"float", "int"});
  with({{"config_groups", {{"g", {{"weights", {{"num_bits", 4}, {"actorder", "group"}}}}}}}}, {"actorder"});
}

}  // namespace
}  // namespace metal_marlin
