// Checkpoints whose files, config and tensors contradict each other: which counts, and what is said.
#include <cmath>
#include <functional>
#include <limits>

#include "checkpoint/models.h"
#include "core/half.h"
#include "layouts/config/labels.h"
#include "layouts/config/read_config.h"
#include "pack/awq_gemm.h"
#include "pack/gptq.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::f32_tensor;
using test::small_config;
using test::small_shapes;
using test::TemporaryFolder;
using test::warns;

const std::string kLayer = "model.layers.0.";

void write(const TemporaryFolder& folder, const std::vector<OwnedTensor>& tensors,
           const std::string& name = "model.safetensors") {
  std::vector<TensorView> views;
  for (const OwnedTensor& t : tensors) views.push_back(t.view());
  write_safetensors(folder.path(name), views);
}

OwnedTensor copy_of(const OwnedTensor& t, const std::string& name) {
  OwnedTensor out{name, t.dtype, t.shape, Buffer(t.bytes.size())};
  std::memcpy(out.bytes.data(), t.bytes.data(), t.bytes.size());
  return out;
}

OwnedTensor& at(std::vector<OwnedTensor>& tensors, const std::string& name) {
  for (OwnedTensor& t : tensors) {
    if (t.name == name) return t;
  }
  throw std::runtime_error(name);
}

void set(OwnedTensor& t, size_t element, float value) {
  std::memcpy(t.bytes.data() + 4 * element, &value, 4);
}

// --- tied or not ---------------------------------------------------------------------------------------------------

TEST(TiedHead, AnotherStoredHeadCountsAndIsSaid) {
  TemporaryFolder folder;
  json config = small_config();
  config["tie_word_embeddings"] = true;
  test::write_small_model(folder, config);
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_FALSE(source->config().tie_word_embeddings);
  EXPECT_EQ(source->head_tensor(), "lm_head.weight");
  EXPECT_EQ(source->config_json()["tie_word_embeddings"], false);
  EXPECT_TRUE(warns(*source, {"model.embed_tokens.weight", "lm_head.weight", "tie_word_embeddings"}));
}

TEST(TiedHead, AnEqualHeadStaysTied) {
  TemporaryFolder folder;
  json config = small_config();
  config["tie_word_embeddings"] = true;
  auto tensors = test::f32_tensors(small_shapes());
  const OwnedTensor head = copy_of(at(tensors, "model.embed_tokens.weight"), "lm_head.weight");
  std::memcpy(at(tensors, "lm_head.weight").bytes.data(), head.bytes.data(), head.bytes.size());
  folder.write("config.json", config.dump());
  write(folder, tensors);
  const auto source = ModelSource::open(folder.path(""));
  EXPECT_TRUE(source->config().tie_word_embeddings);
  EXPECT_TRUE(source->warnings().empty());
  set(at(tensors, "lm_head.weight"), 12 * 16 - 1, 0.5F);  // the very last element
  write(folder, tensors);
  EXPECT_FALSE(ModelSource::open(folder.path(""))->config().tie_word_embeddings);
}

TEST(TiedHead, FamiliesThatTieByDefault) {
  TemporaryFolder folder;
  const json config = json::parse(test::file_content(test::tiny_model("gemma2/config.json")));
  folder.write("config.json", config.dump());
  const SafetensorsFile file(test::tiny_model("gemma2/model.safetensors"));
  std::vector<TensorView> views(file.tensors());
  const auto embedding = file.get("model.embed_tokens.weight");
  const OwnedTensor head = f32_tensor("lm_head.weight", embedding.shape);
  views.push_back(head.view());
  write_safetensors(folder.path("model.safetensors"), views);
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  EXPECT_FALSE(source->config().tie_word_embeddings);
  EXPECT_TRUE(warns(*source, {"lm_head.weight"}));
}

TEST(TiedHead, UntiedWithoutAHeadNamesFileAndCure) {
  TemporaryFolder folder;
  auto shapes = small_shapes();
  shapes.erase("lm_head.weight");
  test::write_small_model(folder, small_config(), shapes);
  check_error(expect<FormatError>({"lm_head.weight", "missing from model.safetensors", "tie_word_embeddings to true"}),
              [&] { ModelSource::open(folder.path(""))->check(); });
}

// --- biases --------------------------------------------------------------------------------------------------------

TEST(SurplusBiases, ZerosAreLeftOutOthersRefused) {
  for (const std::string module : {"self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "input_layernorm"}) {
    const std::string name = kLayer + module + ".bias";
    TemporaryFolder folder;
    folder.write("config.json", small_config().dump());
    auto tensors = test::f32_tensors(small_shapes());
    tensors.push_back({name, DType::kF16, {16}, Buffer(32)});
    std::memset(tensors.back().bytes.data(), 0, 32);
    write(folder, tensors);
    const auto source = ModelSource::open(folder.path(""));
    source->check();
    EXPECT_FALSE(source->has(name));
    ASSERT_EQ(source->left_out().size(), 1u);
    EXPECT_EQ(source->left_out()[0].name, name);
    EXPECT_NE(source->left_out()[0].reason.find("zeros"), std::string::npos);
    EXPECT_TRUE(warns(*source, {"1 bias", name}));
    const uint16_t one = f32_to_f16(1.0F);
    std::memcpy(tensors.back().bytes.data() + 30, &one, 2);
    write(folder, tensors);
    check_error(expect<FormatError>({name, "no bias"}), [&] { ModelSource::open(folder.path(""))->check(); });
  }
}

// --- labels of GPTQ and AWQ ----------------------------------------------------------------------------------------

// All linears in a layout, symmetric: every zero is 8. hidden 64, so that Marlin's tiles fit too.
struct Packed {
  json config = small_config();
  std::vector<OwnedTensor> tensors;
  std::map<std::string, QuantizedTensor> codes;

  explicit Packed(const std::string& layout, uint8_t zero = 8, int64_t group = 8) {
    config["quantization_config"] = {
        {"quant_method", layout == "awq" ? "awq" : "gptq"}, {"bits", 4}, {"group_size", group}, {"desc_act", false}};
    if (layout == "gptq_v2") config["quantization_config"]["checkpoint_format"] = "gptq_v2";
    if (layout != "awq") config["quantization_config"]["sym"] = true;
    for (const auto& [name, shape] : small_shapes()) {
      if (name.find("_proj.") == std::string::npos) {
        tensors.push_back(f32_tensor(name, shape));
        continue;
      }
      QuantizedTensor q{.out_features = shape[0], .in_features = shape[1], .group_size = group};
      q.symmetric = zero == 8;
      const auto noise = test::small_values(name, shape[0] * shape[1] * 2);
      for (int64_t i = 0; i < shape[0] * shape[1]; ++i)
        q.codes.push_back(static_cast<uint8_t>(std::fabs(noise[static_cast<size_t>(i)]) * 15.99F));
      for (int64_t i = 0; i < shape[0] * q.groups(); ++i) {
        q.scales.push_back(f32_to_f16(noise[static_cast<size_t>(i)]));
        q.zeros.push_back(zero);
      }
      PackedTensor packed = layout == "awq"
                                ? pack_awq_gemm(q, name)
                                : pack_gptq(q, name, layout == "gptq" ? GptqVersion::kV1 : GptqVersion::kV2);
      for (OwnedTensor& part : packed.parts) {
        part.name = name.substr(0, name.size() - 6) + part.name;
        tensors.push_back(std::move(part));
      }
      codes.emplace(name, std::move(q));
    }
  }
  json& settings() { return config["quantization_config"]; }
  std::unique_ptr<ModelSource> open(const TemporaryFolder& folder) const {
    folder.write("config.json", config.dump());
    write(folder, tensors);
    auto source = ModelSource::open(folder.path(""));
    source->check();
    return source;
  }
  // Of the formula alone.
  void expect_values(const ModelSource& source) const {
    for (const auto& [name, q] : codes) {
      const Matrix m = source.load(name);
      for (int64_t n = 0; n < q.out_features; ++n) {
        for (int64_t k = 0; k < q.in_features; ++k) {
          const auto group = static_cast<size_t>(n * q.groups() + k / q.group_size);
          ASSERT_EQ(m(n, k),
                    static_cast<float>(int{q.codes[static_cast<size_t>(n * q.in_features + k)]} - int{q.zeros[group]}) *
                        f16_to_f32(q.scales[group]))
              << name;
        }
      }
    }
  }
};

TEST(GptqLabels, TheWrongVersionIsReadRightlyAndSaid) {
  TemporaryFolder folder;
  Packed v2("gptq_v2");
  v2.settings().erase("checkpoint_format");  // a missing one means version 1
  auto source = v2.open(folder);
  v2.expect_values(*source);
  EXPECT_EQ(source->format(), "gptq_v2");
  EXPECT_EQ(source->config_json()["quantization_config"]["checkpoint_format"], "gptq_v2");
  EXPECT_TRUE(warns(*source, {"off by one", "gptq_v2"}));
  v2.settings()["checkpoint_format"] = "gptq";
  v2.settings().erase("sym");  // missing means true
  source = v2.open(folder);
  v2.expect_values(*source);
  EXPECT_TRUE(warns(*source, {"off by one"}));

  Packed v1("gptq");
  v1.settings()["checkpoint_format"] = "gptq_v2";
  source = v1.open(folder);
  v1.expect_values(*source);
  EXPECT_EQ(source->format(), "gptq");
  EXPECT_TRUE(warns(*source, {"off by one"}));
}

// What people edit may begin with a byte order mark, whichever of the files it is.
TEST(Files, LoseTheirByteOrderMark) {
  const std::string mark = "\xEF\xBB\xBF";
  TemporaryFolder folder;
  const Packed made("awq");
  folder.write("config.json", mark + made.config.dump());
  folder.write("generation_config.json", mark + R"({"eos_token_id": 2})");
  write(folder, made.tensors, "model-00001-of-00001.safetensors");
  json index = {{"metadata", json::object()}, {"weight_map", json::object()}};
  for (const OwnedTensor& t : made.tensors) index["weight_map"][t.name] = "model-00001-of-00001.safetensors";
  folder.write("model.safetensors.index.json", mark + index.dump());
  const auto source = ModelSource::open(folder.path(""));
  source->check();
  made.expect_values(*source);
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors.index.json"})
    EXPECT_TRUE(warns(*source, {std::string(name) + ": begins with a byte order mark, which is left out"})) << name;
  // Settings in the file of older tools.
  json plain = made.config;
  const json settings = plain["quantization_config"];
  plain.erase("quantization_config");
  folder.write("config.json", plain.dump());
  folder.write("quant_config.json", mark + settings.dump());
  const auto older = ModelSource::open(folder.path(""));
  made.expect_values(*older);
  EXPECT_TRUE(warns(*older, {"quant_config.json: begins with a byte order mark"}));
}

// Codes of modules that the config says are left in floats, and the other way round.
TEST(GptqLabels, ModulesThatTheConfigLeavesOutAreSaid) {
  const auto head_of = [](Packed& made, const std::string& layout) {
    Packed other(layout);
    for (OwnedTensor& t : other.tensors) {
      if (!t.name.starts_with(kLayer + "mlp.up_proj.")) continue;  // its shape is not the head's, but it is codes
      made.tensors.push_back(copy_of(t, "lm_head" + t.name.substr(kLayer.size() + 11)));
    }
    std::erase_if(made.tensors, [](const OwnedTensor& t) { return t.name == "lm_head.weight"; });
    made.config["vocab_size"] = 24;
    at(made.tensors, "model.embed_tokens.weight") = f32_tensor("model.embed_tokens.weight", {24, 16});
  };
  for (const std::string layout : {"gptq", "gptq_v2"}) {
    TemporaryFolder folder;
    Packed made(layout);
    head_of(made, layout);
    made.settings()["lm_head"] = false;
    EXPECT_TRUE(warns(*made.open(folder), {"lm_head: false", "codes are stored for lm_head"}));
    made.settings()["lm_head"] = true;
    EXPECT_FALSE(warns(*made.open(folder), {"lm_head"}));
    Packed plain(layout);
    plain.settings()["lm_head"] = true;
    EXPECT_TRUE(warns(*plain.open(folder), {"lm_head: true", "no codes are stored"}));
    plain.settings()["lm_head"] = false;
    EXPECT_FALSE(warns(*plain.open(folder), {"lm_head"}));
  }
  TemporaryFolder folder;
  Packed awq("awq");
  for (const char* entry : {"self_attn.q_proj", "q_proj", "model.layers.0.self_attn"}) {
    awq.settings()["modules_to_not_convert"] = {"lm_head", entry};
    EXPECT_TRUE(warns(*awq.open(folder), {"modules_to_not_convert", entry, "codes are stored"})) << entry;
  }
  awq.settings()["modules_to_not_convert"] = {"lm_head", "model.layers.1.self_attn.q_proj", "proj"};
  EXPECT_FALSE(warns(*awq.open(folder), {"modules_to_not_convert"}));
}

TEST(GptqLabels, RightLabelsAreNotTouched) {
  TemporaryFolder folder;
  for (const std::string layout : {"gptq", "gptq_v2", "awq"}) {
    const Packed made(layout);
    const auto source = made.open(folder);
    made.expect_values(*source);
    EXPECT_EQ(source->format(), layout);
    EXPECT_TRUE(source->warnings().empty()) << source->warnings().front();
  }
  // Not symmetric: a zero of 11 everywhere is what it is.
  Packed eleven("gptq", 11);
  eleven.settings()["sym"] = false;
  const auto source = eleven.open(folder);
  eleven.expect_values(*source);
  EXPECT_TRUE(source->warnings().empty());
}

// Without sym: true the config counts, but zeros that would be the middle in the other version are said.
TEST(GptqLabels, ZerosThatTheOtherVersionReadsAsTheMiddleAreSaid) {
  TemporaryFolder folder;
  Packed nine("gptq", 9);  // stored as 8
  nine.settings()["sym"] = false;
  auto source = nine.open(folder);
  nine.expect_values(*source);
  EXPECT_EQ(source->format(), "gptq");
  EXPECT_TRUE(warns(*source, {"sym: false", "stored as 8", "gptq reads as 9", "gptq_v2 as 8, the middle"}));
  Packed seven("gptq_v2", 7);
  seven.settings()["sym"] = false;
  source = seven.open(folder);
  seven.expect_values(*source);
  EXPECT_TRUE(warns(*source, {"sym: false", "stored as 7", "gptq_v2 reads as 7", "gptq as 8, the middle"}));
}

TEST(GptqLabels, ALayoutWithoutZerosUnderAnAsymmetricLabelIsSaid) {
  TemporaryFolder folder;
  json config = small_config();
  config["hidden_size"] = 64;
  for (const auto& [key, value] : {std::pair{"sym", false}, std::pair{"zero_point", true}}) {
    PackedConfig packed;
    json settings = {{"quant_method", "marlin"}, {"bits", 4}, {"group_size", 128}};
    settings[key] = value;
    config["quantization_config"] = settings;
    std::vector<std::string> warnings;
    packed = read_packed_config(config, "config.json", folder.path(""), warnings);
    const auto found = settle_labels(packed, config, {}, "model");
    ASSERT_EQ(found.size(), 1u) << key;
    EXPECT_NE(found[0].find("Marlin's layout has no zeros"), std::string::npos) << found[0];
    EXPECT_NE(found[0].find(key), std::string::npos) << found[0];
  }
}

TEST(GptqLabels, NativeZerosUnderASymmetricLabelAreSaid) {
  TemporaryFolder folder;
  json config = small_config();
  config["quantization_config"] = {
      {"quant_method", "metal_marlin"}, {"bits", 4}, {"group_size", 8}, {"zero_point", false}};
  std::vector<std::string> warnings;
  PackedConfig packed = read_packed_config(config, "config.json", folder.path(""), warnings);
  for (const float zero : {0.0F, 3.0F}) {
    std::vector<uint16_t> bits(4, f32_to_f16(zero));
    const TensorView zeros{"zeros", DType::kF16, {1, 4}, std::as_bytes(std::span(bits))};
    PackedLinear linear;
    linear.zeros = &zeros;
    const auto found = settle_labels(packed, config, {{"file: up_proj", "up_proj", &linear}}, "model");
    ASSERT_EQ(found.size(), zero == 0 ? 0u : 1u);
    if (zero != 0) {
      EXPECT_NE(found[0].find("zero_point: false"), std::string::npos) << found[0];
    }
  }
}

TEST(GptqLabels, SymmetricByNameOnlyIsSaid) {
  TemporaryFolder folder;
  const Packed made("gptq", 5);
  const auto source = made.open(folder);
  made.expect_values(*source);
  EXPECT_TRUE(warns(*source, {"sym: true", "read as stored"}));
  Packed awq("awq", 5);
  awq.settings()["zero_point"] = false;
  const auto other = awq.open(folder);
  awq.expect_values(*other);
  EXPECT_TRUE(warns(*other, {"zero_point: false"}));
}

TEST(GptqLabels, AMixtureOfVersionsIsRefused) {
  TemporaryFolder folder;
  Packed made("gptq");
  const Packed other("gptq_v2");
  for (const OwnedTensor& t : other.tensors) {
    if (t.name == kLayer + "mlp.up_proj.qzeros")
      std::memcpy(at(made.tensors, t.name).bytes.data(), t.bytes.data(), t.bytes.size());
  }
  check_error(expect<FormatError>({"mlp.up_proj", "version 2"}), [&] { made.open(folder); });
}

TEST(GroupIndex, AllZerosMeanNoneUnlessTheOrderIsLost) {
  TemporaryFolder folder;
  for (const std::string layout : {"gptq", "gptq_v2"}) {
    Packed made(layout);
    for (OwnedTensor& t : made.tensors) {
      if (t.name.ends_with(".g_idx")) std::memset(t.bytes.data(), 0, t.bytes.size());
    }
    const auto source = made.open(folder);
    made.expect_values(*source);
    EXPECT_TRUE(warns(*source, {"g_idx", "zeros", "taken as none"}));
    made.settings()["desc_act"] = true;
    check_error(expect<FormatError>({"g_idx", "desc_act: true", "only zeros"}), [&] { made.open(folder); });
  }
}

TEST(GroupIndex, OneNumberForAllColumnsIsNoneToo) {
  TemporaryFolder folder;
  for (const int32_t group : {1, 2}) {
    Packed made("gptq");
    for (OwnedTensor& t : made.tensors) {
      if (!t.name.ends_with("down_proj.g_idx")) continue;  // 3 groups
      for (size_t i = 0; i < t.bytes.size(); i += 4) std::memcpy(t.bytes.data() + i, &group, 4);
    }
    const auto source = made.open(folder);
    made.expect_values(*source);
    EXPECT_TRUE(warns(*source, {"g_idx of 1 linear", "every column into one group", "taken as none"}));
    made.settings()["desc_act"] = true;
    const auto said = "g_idx holds only the number " + std::to_string(group);
    check_error(expect<FormatError>({said, "desc_act: true"}), [&] { made.open(folder); });
  }
}

TEST(GroupIndex, LostActOrderIsRefused) {
  TemporaryFolder folder;
  Packed made("gptq");
  std::erase_if(made.tensors, [](const OwnedTensor& t) { return t.name.ends_with(".g_idx"); });
  EXPECT_TRUE(made.open(folder)->warnings().empty());  // without act order nothing is lost
  made.settings()["desc_act"] = true;
  check_error(expect<FormatError>({"g_idx is missing", "desc_act: true"}), [&] { made.open(folder); });
  // One group for a row has no order.
  Packed rows("gptq", 8, 24);
  for (auto& [name, q] : rows.codes) ASSERT_EQ(q.groups(), 1);
  std::erase_if(rows.tensors, [](const OwnedTensor& t) { return t.name.ends_with(".g_idx"); });
  rows.settings()["desc_act"] = true;
  rows.expect_values(*rows.open(folder));
}

TEST(GroupIndex, ScatteredGroupsOfAConfigWithoutActOrderAreSaid) {
  TemporaryFolder folder;
  Packed made("gptq");
  OwnedTensor& index = at(made.tensors, kLayer + "mlp.down_proj.g_idx");
  const int32_t two = 2;
  std::memcpy(index.bytes.data(), &two, 4);
  EXPECT_TRUE(warns(*made.open(folder), {"desc_act: false", "mlp.down_proj"}));
}

// --- NaN and infinity ----------------------------------------------------------------------------------------------

TEST(Finite, EveryStorageTypeAndTheElementOfTheWholeTensor) {
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      auto tensors = test::f32_tensors(small_shapes());
      OwnedTensor& head = at(tensors, "lm_head.weight");
      const size_t bytes = dtype_size(type);
      OwnedTensor stored{"lm_head.weight", type, head.shape, Buffer(12 * 16 * bytes)};
      std::memset(stored.bytes.data(), 0, stored.bytes.size());
      uint32_t wide = 0;
      std::memcpy(&wide, &bad, 4);
      const uint16_t half = type == DType::kF16 ? f32_to_f16(bad) : static_cast<uint16_t>(wide >> 16);
      std::memcpy(stored.bytes.data() + 37 * bytes, type == DType::kF32 ? static_cast<const void*>(&wide) : &half,
                  bytes);
      head = std::move(stored);
      write(folder, tensors);
      const auto source = ModelSource::open(folder.path(""));
      check_error(expect<NumericError>({folder.path(""), "lm_head.weight", "element 37", "row 2, column 5"}),
                  [&] { source->check_finite("lm_head.weight"); });
      for (const auto& [name, shape] : small_shapes()) {
        if (name != "lm_head.weight") source->check_finite(name);
      }
    }
  }
}

TEST(Finite, ScalesOfCodes) {
  TemporaryFolder folder;
  for (const std::string layout : {"gptq", "gptq_v2", "awq"}) {
    Packed made(layout);
    OwnedTensor& scales = at(made.tensors, kLayer + "mlp.up_proj.scales");
    const uint16_t infinity = 0x7c00;
    std::memcpy(scales.bytes.data() + 6, &infinity, 2);
    const auto source = made.open(folder);
    check_error(expect<FormatError>({"mlp.up_proj", "scales"}),
                [&] { source->check_finite(kLayer + "mlp.up_proj.weight"); });
    source->check_finite(kLayer + "mlp.down_proj.weight");
  }
}

// --- files ---------------------------------------------------------------------------------------------------------

struct Shards {
  TemporaryFolder folder;
  std::vector<OwnedTensor> first;
  std::vector<OwnedTensor> second;
  SafetensorsIndex index;

  Shards() {
    folder.write("config.json", small_config().dump());
    for (OwnedTensor& t : test::f32_tensors(small_shapes())) {
      const bool one = t.name.find("self_attn") != std::string::npos;
      index.weight_map[t.name] = shard_name(one ? 1 : 2, 2);
      (one ? first : second).push_back(std::move(t));
    }
  }
  std::unique_ptr<ModelSource> open() const {
    write(folder, first, shard_name(1, 2));
    write(folder, second, shard_name(2, 2));
    write_index(folder.path("model.safetensors.index.json"), index);
    auto source = ModelSource::open(folder.path(""));
    source->check();
    return source;
  }
};

TEST(ShardIndex, AListedTensorThatNothingNeeds) {
  Shards s;
  EXPECT_TRUE(s.open()->warnings().empty());
  s.index.weight_map["model.layers.0.self_attn.rotary_emb.inv_freq"] = shard_name(1, 2);
  EXPECT_TRUE(warns(*s.open(), {"model.safetensors.index.json", "1 tensor", "inv_freq"}));
}

TEST(ShardIndex, AnEmptyMapIsNamed) {
  Shards s;
  s.open();
  s.folder.write("model.safetensors.index.json", R"({"metadata": {}, "weight_map": {}})");
  check_error(expect<FormatError>({"model.safetensors.index.json: weight_map is empty", "download the index again"}),
              [&] { ModelSource::open(s.folder.path("")); });
  write(s.folder, test::f32_tensors(small_shapes()), "model.safetensors");
  EXPECT_TRUE(warns(*ModelSource::open(s.folder.path("")), {"model.safetensors is read", "weight_map is empty"}));
}

TEST(ShardIndex, ANeededTensorThatIsMissingNamesTheFiles) {
  Shards s;
  std::erase_if(s.second, [](const OwnedTensor& t) { return t.name == "model.norm.weight"; });
  check_error(expect<FormatError>({"model.norm.weight", shard_name(1, 2), "index places it in " + shard_name(2, 2)}),
              [&] { s.open(); });
  s.index.weight_map.erase("model.norm.weight");
  check_error(expect<FormatError>({"model.norm.weight", "missing from " + shard_name(1, 2) + ", " + shard_name(2, 2)}),
              [&] { s.open(); });
}

TEST(ShardIndex, UnlistedAndMisplacedTensorsAreRead) {
  Shards s;
  s.index.weight_map.erase("model.norm.weight");
  EXPECT_TRUE(warns(*s.open(), {"not listed", "model.norm.weight"}));
  s.index.weight_map["model.norm.weight"] = shard_name(1, 2);
  EXPECT_TRUE(warns(*s.open(), {"another shard", "model.norm.weight"}));
}

TEST(ShardIndex, DuplicatesAreReadWhereTheyAreEqual) {
  Shards s;
  s.first.push_back(copy_of(at(s.second, "model.norm.weight"), "model.norm.weight"));
  const auto source = s.open();
  EXPECT_TRUE(warns(*source, {"twice", "model.norm.weight"}));
  EXPECT_EQ(test::values_of(source->load("model.norm.weight")), test::small_values("model.norm.weight", 16));
  set(s.first.back(), 3, 7.0F);
  check_error(expect<FormatError>({"model.norm.weight", shard_name(1, 2), shard_name(2, 2), "differ"}),
              [&] { s.open(); });
}

TEST(ShardIndex, AStraySingleFileDoesNotCount) {
  Shards s;
  write(s.folder, {}, "model.safetensors");  // nothing of the model
  EXPECT_TRUE(warns(*s.open(), {"model.safetensors", "the shards are read"}));
  // An index that is not whole counts no more than before.
  write(s.folder, test::f32_tensors(small_shapes()), "model.safetensors");
  std::filesystem::remove(s.folder.path(shard_name(2, 2)));
  const auto source = ModelSource::open(s.folder.path(""));
  source->check();
  EXPECT_TRUE(warns(*source, {"model.safetensors is read", "not whole"}));
}

// Where the stray file is not the model either, the message names it and the shards that are missing.
TEST(ShardIndex, AStraySingleFileBesideMissingShards) {
  Shards s;
  s.open();
  std::filesystem::remove(s.folder.path(shard_name(2, 2)));
  const auto open = [&] { ModelSource::open(s.folder.path(""))->check(); };
  const std::vector<std::string> both = {"model.safetensors is read", shard_name(2, 2), "model.safetensors.index.json"};
  const auto with = [&](const char* text) {
    std::vector<std::string> all = both;
    all.emplace_back(text);
    return all;
  };
  write(s.folder, s.first, "model.safetensors");
  check_error(expect<FormatError>(with("is missing from model.safetensors")), open);
  auto tensors = test::f32_tensors(small_shapes());
  at(tensors, "model.norm.weight") = f32_tensor("model.norm.weight", {17});
  write(s.folder, tensors, "model.safetensors");
  check_error(expect<FormatError>(with("expected the shape [16]")), open);
  s.folder.write("model.safetensors", "Entry not found");
  check_error(expect<FormatError>(with("it begins with \"Entry not found\"")), open);
  // What is found while the tensors are put together, and what is found in their values.
  tensors = test::f32_tensors(small_shapes());
  tensors.push_back(f32_tensor(kLayer + "self_attn.q_proj.lora_A.weight", {2, 16}));
  write(s.folder, tensors, "model.safetensors");
  check_error(expect<FormatError>(with("lora_A")), open);
  tensors.back() = f32_tensor(kLayer + "self_attn.q_proj.scales", {2, 16});
  write(s.folder, tensors, "model.safetensors");
  check_error(expect<UnsupportedError>(with("q_proj.scales")), open);
  tensors.pop_back();
  set(at(tensors, "model.norm.weight"), 3, NAN);
  write(s.folder, tensors, "model.safetensors");
  const auto source = ModelSource::open(s.folder.path(""));
  check_error(expect<NumericError>(with("found nan at element 3")), [&] { source->check_finite("model.norm.weight"); });
  check_error(expect<FormatError>(with("tensor model.other")), [&] { source->load("model.other"); });
  std::filesystem::remove(s.folder.path("model.safetensors"));
  std::filesystem::create_directory(s.folder.path("model.safetensors"));
  try {
    open();
    ADD_FAILURE() << "a folder was read as a file";
  } catch (const Error& e) {
    for (const std::string& part : both) EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

// Without an index nothing says which files are the model, so the others are named.
TEST(WeightFilesOf, WhatIsLeftAsideIsSaid) {
  Shards s;
  s.open();
  std::filesystem::remove(s.folder.path("model.safetensors.index.json"));
  EXPECT_TRUE(ModelSource::open(s.folder.path(""))->warnings().empty());
  write(s.folder, test::f32_tensors(small_shapes()), "model.safetensors");
  const auto open = [&] { return ModelSource::open(s.folder.path("")); };
  EXPECT_TRUE(warns(*open(), {"model.safetensors is read and 2 files left aside", shard_name(1, 2), shard_name(2, 2)}));
  // Half of a set, and a file of another name.
  std::filesystem::remove(s.folder.path(shard_name(1, 2)));
  EXPECT_TRUE(warns(*open(), {"model.safetensors is read and 1 file left aside", shard_name(2, 2)}));
  std::filesystem::rename(s.folder.path(shard_name(2, 2)), s.folder.path("model.awq.safetensors"));
  EXPECT_TRUE(warns(*open(), {"model.safetensors is read", "model.awq.safetensors"}));
  // An error of the file that was read names the others too.
  s.folder.write("model.safetensors", "Entry not found");
  check_error(expect<FormatError>({"Entry not found", "left aside", "model.awq.safetensors"}), [&] { open(); });
  // A publisher's own names mean nothing.
  write(s.folder, test::f32_tensors(small_shapes()), "model.safetensors");
  std::filesystem::rename(s.folder.path("model.awq.safetensors"), s.folder.path("consolidated.safetensors"));
  EXPECT_TRUE(open()->warnings().empty());
  // Shards before files that are none of them.
  std::filesystem::remove(s.folder.path("model.safetensors"));
  Shards other;
  other.open();
  std::filesystem::remove(other.folder.path("model.safetensors.index.json"));
  write(other.folder, {}, "extra.safetensors");
  EXPECT_TRUE(warns(*ModelSource::open(other.folder.path("")),
                    {shard_name(1, 2) + " to " + shard_name(2, 2) + " are read", "extra.safetensors"}));
}

TEST(WeightFilesOf, AFolderWithoutTheModel) {
  TemporaryFolder folder;
  folder.write("config.json", small_config().dump());
  const auto open = [&] { ModelSource::open(folder.path("")); };
  check_error(expect<FormatError>({"found none"}), open);
  folder.write("pytorch_model.bin", "x");
  check_error(expect<FormatError>({"pytorch_model.bin", "can hold any Python code", "save_pretrained"}), open);
  folder.write("adapter_model.safetensors", "x");
  check_error(expect<FormatError>({"adapter_model.safetensors", "LoRA", "merge"}), open);
  std::filesystem::remove(folder.path("adapter_model.safetensors"));
  write(folder, test::f32_tensors(small_shapes()), shard_name(1, 2));
  check_error(expect<FormatError>({shard_name(2, 2), "missing"}), open);
  folder.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
  check_error(expect<FormatError>({"model.safetensors", "git lfs pull"}), open);
}

TEST(WeightFilesOf, AdaptersAreNotPartOfTheModel) {
  TemporaryFolder folder;
  test::write_small_model(folder);
  folder.write("adapter_model.safetensors", "x");
  EXPECT_TRUE(warns(*ModelSource::open(folder.path("")), {"adapter_model.safetensors", "not applied"}));
  auto shapes = small_shapes();
  shapes[kLayer + "self_attn.q_proj.lora_A.weight"] = {2, 16};
  test::write_small_model(folder, small_config(), shapes);
  check_error(expect<FormatError>({"lora_A", "merge"}), [&] { ModelSource::open(folder.path("")); });
}

TEST(WeightFilesOf, EverythingElseNamedJson) {
  TemporaryFolder folder;
  test::write_small_model(folder);
  for (const std::string name : {"generation_config.json", "config.json"}) {
    folder.write(name, "<!DOCTYPE html><html></html>");
    check_error(expect<FormatError>({name, "HTML page"}), [&] { ModelSource::open(folder.path("")); });
    folder.write(name, "{\"a\":" + std::string(90'000, '[') + std::string(90'000, ']') + "}");
    check_error(expect<FormatError>({name, "\"a\"", "levels of nesting"}), [&] { ModelSource::open(folder.path("")); });
    std::filesystem::remove(folder.path(name));
  }
}

TEST(EndTokens, ManyOfThemTakeLinearTime) {
  TemporaryFolder folder;
  test::write_small_model(folder);
  json ids = json::array();
  for (int i = 0; i < 400'000; ++i) ids.push_back(i);
  folder.write("generation_config.json", json{{"eos_token_id", ids}}.dump());
  EXPECT_EQ(ModelSource::open(folder.path(""))->config().eos_token_ids.size(), 400'000u);
}

TEST(NativeMetadata, IsParsedWithABound) {
  TemporaryFolder folder;
  json config = small_config();
  config["quantization_config"] = {{"quant_method", "metal_marlin"}, {"bits", 4}, {"group_size", 8}};
  folder.write("config.json", config.dump());
  QuantizedTensor q{.out_features = 16, .in_features = 16, .group_size = 8};
  q.codes.assign(256, 3);
  q.scales.assign(32, f32_to_f16(1.0F));
  q.zeros.assign(32, 8);
  auto tensors = test::f32_tensors(small_shapes());
  const std::string name = kLayer + "self_attn.q_proj.weight";
  std::erase_if(tensors, [&](const OwnedTensor& t) { return t.name == name; });
  PackedTensor packed = pack_native(q, name, {});
  for (OwnedTensor& part : packed.parts) {
    part.name = name.substr(0, name.size() - 6) + part.name;
    tensors.push_back(std::move(part));
  }
  std::vector<TensorView> views;
  for (const OwnedTensor& t : tensors) views.push_back(t.view());
  const std::string deep = std::string(80'000, '[') + std::string(80'000, ']');
  for (const auto& [bits, linears] : {std::pair{deep, std::string("{}")}, {"4", "{\"x\":{\"bits\":" + deep + "}}"}}) {
    write_safetensors(folder.path("model.safetensors"), views,
                      {{"metal_marlin.version", "2"},
                       {"metal_marlin.nibble_offset", "8"},
                       {"metal_marlin.bits", bits},
                       {"metal_marlin.tensors", linears}});
    check_error(expect<FormatError>({"model.safetensors", "metal_marlin.", "levels of nesting"}),
                [&] { ModelSource::open(folder.path("")); });
  }
}

TEST(Names, OfFilesAreShownSafely) {
  TemporaryFolder folder;
  json config = small_config();
  config["model_type"] = "llama\x1b]0;PWNED\x07" + std::string(1000, 'x');
  test::write_small_model(folder, config);
  try {
    ModelSource::open(folder.path(""));
    FAIL();
  } catch (const UnsupportedError& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.find('\x1b'), std::string::npos);
    EXPECT_NE(message.find("\\x1b]0;PWNED"), std::string::npos);
    EXPECT_LT(message.size(), 600u);
  }
}

}  // namespace
}  // namespace metal_marlin
