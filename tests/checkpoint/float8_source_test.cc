// Checkpoints in floats of 8 bits: the values of ml_dtypes, and damaged ones.
#include <cmath>
#include <functional>

#include "checkpoint/float8.h"
#include "checkpoint/foreign_model.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using test::TemporaryFolder;

const std::string kModule = "model.layers.0.mlp.gate_proj";
constexpr int64_t kOut = 40;
constexpr int64_t kIn = 88;

const SafetensorsFile& golden() {
  static const SafetensorsFile kFile(std::string(TEST_DATA) + "/formats/float8.safetensors");
  return kFile;
}
OwnedTensor copy_of(const std::string& golden_name, const std::string& name) {
  const TensorView& view = golden().get(golden_name);
  OwnedTensor t{name, view.dtype, view.shape, Buffer(view.bytes.size())};
  std::memcpy(t.bytes.data(), view.bytes.data(), t.bytes.size());
  return t;
}

nlohmann::json fp8_config(const nlohmann::json& block = nullptr) {
  return {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}, {"weight_block_size", block}};
}
nlohmann::json compressed_config(const std::string& strategy) {
  nlohmann::json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", strategy}, {"symmetric", true}};
  if (strategy == "block") weights["block_structure"] = {16, 32};
  return {{"quant_method", "compressed-tensors"},
          {"format", "float-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", weights},
              {"input_activations", {{"num_bits", 8}, {"type", "float"}}}}}}}};
}

struct Case {
  const char* name;  // in the golden file
  nlohmann::json config;
  bool inverse = false;  // the name of the scale
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// gate is stored in floats of 8 bits.
struct Float8Model : test::PackedModel {
  explicit Float8Model(const Case& c) {
    config["hidden_size"] = kIn;
    config["intermediate_size"] = kOut;
    config["quantization_config"] = c.config;
    metadata = {{"format", "pt"}};
    for (auto [name, shape] : test::small_shapes()) {
      for (int64_t& d : shape) d = d == 16 ? kIn : d == 24 ? kOut : d == 8 ? kIn / 2 : d;
      if (name != kModule + ".weight") tensors.push_back(test::f32_tensor(name, shape));
    }
    const std::string scale = c.inverse ? ".weight_scale_inv" : ".weight_scale";
    const std::string stored = std::string(c.name) == "block" ? ".weight_scale_inv" : ".weight_scale";
    tensors.push_back(copy_of(std::string(c.name) + ".weight", kModule + ".weight"));
    tensors.push_back(copy_of(c.name + stored, kModule + scale));
    tensors.push_back(test::tensor_of<float>(kModule + ".input_scale", DType::kF32, {}, {0.25F}));
    tensors.push_back(test::tensor_of<float>("model.layers.0.self_attn.k_scale", DType::kF32, {1}, {0.25F}));
  }
};

Case in_blocks() {
  return {"block", fp8_config({16, 32}), true};
}

class Float8Source : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Float8Source,
                         testing::Values(in_blocks(), Case{"block", compressed_config("block")},
                                         Case{"tensor", fp8_config()}, Case{"channel", compressed_config("channel")},
                                         Case{"group", compressed_config("group")},
                                         Case{"tensor", compressed_config("tensor")}));

TEST_P(Float8Source, IsReadAsTheFloatsThatItStandsFor) {
  TemporaryFolder folder;
  const auto source = Float8Model(GetParam()).open(folder);
  source->check();
  EXPECT_EQ(source->format(), "safetensors");
  EXPECT_FALSE(source->quantized());
  EXPECT_FALSE(source->config_json().contains("quantization_config"));
  EXPECT_TRUE(source->warnings().empty()) << source->warnings().front();
  EXPECT_EQ(source->tensors().size(), test::small_shapes().size());
  const std::string name = kModule + ".weight";
  for (const CheckpointTensor& t : source->tensors()) {
    if (t.name != name) continue;
    EXPECT_EQ(t.stored_as, "F8_E4M3");
    EXPECT_GT(t.bytes, static_cast<uint64_t>(kOut * kIn));
  }
  const std::vector<float> expected = test::stored_values(golden().get(std::string("ref.") + GetParam().name));
  EXPECT_EQ(test::values_of(source->load(name)), expected);
  EXPECT_EQ(test::values_of(source->load(name, 17, 3)),
            std::vector<float>(expected.begin() + 17 * kIn, expected.begin() + 20 * kIn));
  const OwnedTensor stored = source->load_stored(name);
  EXPECT_EQ(stored.dtype, DType::kF16);
  const std::vector<float> halves = test::stored_values(stored.view());
  for (size_t i = 0; i < halves.size(); ++i)
    ASSERT_EQ(halves[i], static_cast<float>(static_cast<_Float16>(expected[i])));
  EXPECT_FALSE(source->load_codes(name).has_value());
  EXPECT_NO_THROW(source->check_finite(name));
}

TEST(Float8, EveryByteHasTheValueOfMlDtypes) {
  const float one = 1;
  const TensorView scale{"one", DType::kF32, {1}, std::as_bytes(std::span(&one, 1))};
  StoredEntry e;
  e.file = &golden();
  e.main = &golden().get("e4m3");
  e.shape = {16, 16};
  e.scale = {&scale, 16, 16};
  std::vector<float> values(256);
  float8_to_f32(e, 0, 16, values.data());
  const std::vector<float> expected = test::stored_values(golden().get("ref.e4m3"));
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
    } else {
      EXPECT_EQ(values[i], expected[i]) << i;
      EXPECT_EQ(std::signbit(values[i]), std::signbit(expected[i])) << i;
    }
  }
}

TEST(Float8, AConfigOfFloatsThatAreNotThereIsReported) {
  TemporaryFolder folder;
  Float8Model made(in_blocks());
  made.erase(kModule + ".weight");
  made.erase(kModule + ".weight_scale_inv");
  made.erase(kModule + ".input_scale");
  made.tensors.push_back(test::f32_tensor(kModule + ".weight", {kOut, kIn}));
  EXPECT_TRUE(test::warns(*made.open(folder), {"config.json", "fp8", "floats"}));
}

struct Damage {
  std::string name;
  Case kind;
  std::function<void(Float8Model&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}
class DamagedFloat8 : public testing::TestWithParam<Damage> {};

TEST_P(DamagedFloat8, IsRefused) {
  TemporaryFolder folder;
  Float8Model made(GetParam().kind);
  GetParam().change(made);
  check_error(GetParam().expected, [&] {
    const auto source = made.open(folder);
    source->check();
    source->check_finite(kModule + ".weight");
    source->load(kModule + ".weight");
  });
}

Damage with_scale(const std::string& name, const Case& kind, DType type, const std::vector<int64_t>& shape,
                  const std::vector<std::string>& texts) {
  return {name, kind,
          [type, shape](Float8Model& m) {
            OwnedTensor& t = m.at(kModule + ".weight_scale_inv");
            size_t bytes = dtype_size(type);
            for (const int64_t d : shape) bytes *= static_cast<size_t>(d);
            t.dtype = type;
            t.shape = shape;
            t.bytes = Buffer(bytes);
          },
          expect<FormatError>(texts)};
}
const std::string kWeight = kModule + ".weight";

INSTANTIATE_TEST_SUITE_P(
    Float8, DamagedFloat8,
    testing::Values(
        Damage{"without_scale", in_blocks(), [](Float8Model& m) { m.erase(kModule + ".weight_scale_inv"); },
               expect<FormatError>({kWeight, "weight_scale_inv", "found none"})},
        with_scale("scale_of_integers", in_blocks(), DType::kI32, {3, 3}, {kWeight, "F32", "I32"}),
        with_scale("scale_of_too_few_blocks", in_blocks(), DType::kF32, {2, 3},
                   {kWeight, "[16, 32]", "[40, 88]", "[2, 3]"}),
        with_scale("scale_transposed", in_blocks(), DType::kF32, {1, 40}, {kWeight, "[1, 40]"}),
        with_scale("scale_of_groups_that_do_not_divide", in_blocks(), DType::kF32, {40, 3}, {kWeight, "[40, 3]"}),
        with_scale("scale_of_three_dimensions", in_blocks(), DType::kF32, {3, 3, 1}, {kWeight, "[3, 3, 1]"}),
        with_scale("scale_of_nothing", in_blocks(), DType::kF32, {0}, {kWeight, "[0]"}),
        Damage{"blocks_that_the_config_does_not_know", Case{"block", fp8_config(), true}, [](Float8Model&) {},
               expect<FormatError>({kWeight, "no blocks", "[3, 3]"})},
        Damage{"weight_of_three_dimensions", in_blocks(), [](Float8Model& m) { m.at(kWeight).shape = {kOut, kIn, 1}; },
               expect<FormatError>({kWeight, "[out, in]", "[40, 88, 1]"})},
        Damage{"scale_not_finite", in_blocks(),
               [](Float8Model& m) {
                 const float nan = NAN;
                 std::memcpy(m.at(kModule + ".weight_scale_inv").bytes.data(), &nan, 4);
               },
               expect<FormatError>({kWeight, "scale", "not finite"})},
        Damage{"weight_not_finite", in_blocks(),
               [](Float8Model& m) { m.at(kWeight).bytes.data()[2 * kIn + 5] = std::byte{0x7f}; },
               expect<NumericError>({kWeight, "181"})}),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

}  // namespace
}  // namespace metal_marlin
