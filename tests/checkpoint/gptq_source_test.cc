// Checkpoints of GPTQ tools: config variants, act order, and damaged ones.
#include <functional>

#include "checkpoint/models.h"
#include "checkpoint/packed_model.h"
#include "core/half.h"
#include "kernels/weight_matrix.h"
#include "pack/gptq.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::small_config;
using test::small_shapes;
using test::TemporaryFolder;

const std::string kModule = "model.layers.0.mlp.gate_proj";
constexpr int64_t kGroup = 8;

// Every linear but up in GPTQ, random codes, groups in the order of `scattered`.
struct Checkpoint : test::PackedModel {
  explicit Checkpoint(GptqVersion version = GptqVersion::kV1, bool scattered = false) {
    metadata = {{"format", "pt"}};
    config["quantization_config"] = {
        {"quant_method", "gptq"}, {"bits", 4}, {"group_size", kGroup}, {"sym", false}, {"desc_act", scattered}};
    if (version == GptqVersion::kV2) config["quantization_config"]["checkpoint_format"] = "gptq_v2";
    for (const auto& [name, shape] : small_shapes()) {
      if (!is_linear(name) || name.find("up_proj") != std::string::npos) {
        tensors.push_back(test::f32_tensor(name, shape));
        continue;
      }
      QuantizedTensor q = test::random_codes(name, shape, kGroup, 1);
      for (int64_t k = 0; scattered && k < shape[1]; ++k) q.group_index.push_back(static_cast<int32_t>(k % q.groups()));
      PackedTensor packed = pack_gptq(q, name, version);
      add(name, std::move(q), std::move(packed));
    }
  }
};

class GptqCheckpoint : public testing::TestWithParam<std::tuple<GptqVersion, bool>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, GptqCheckpoint,
                         testing::Combine(testing::Values(GptqVersion::kV1, GptqVersion::kV2), testing::Bool()));

TEST_P(GptqCheckpoint, ValuesFollowTheFormula) {
  const auto [version, scattered] = GetParam();
  TemporaryFolder folder;
  const Checkpoint made(version, scattered);
  const auto source = made.open(folder);
  source->check();
  EXPECT_EQ(source->format(), version == GptqVersion::kV1 ? "gptq" : "gptq_v2");
  EXPECT_TRUE(source->quantized());
  ASSERT_EQ(source->tensors().size(), small_shapes().size());
  for (const auto& [name, q] : made.codes) {
    const Matrix m = source->load(name);
    for (int64_t n = 0; n < q.out_features; ++n) {
      for (int64_t k = 0; k < q.in_features; ++k) {
        const auto at = static_cast<size_t>(n * q.groups() + (scattered ? k % q.groups() : k / kGroup));
        ASSERT_EQ(m(n, k),
                  static_cast<float>(int{q.codes[static_cast<size_t>(n * q.in_features + k)]} - int{q.zeros[at]}) *
                      f16_to_f32(q.scales[at]));
      }
    }
    // Codes alone only where their groups are consecutive.
    const bool consecutive = !scattered || q.groups() == 1;
    EXPECT_EQ(source->load_quantized(name).has_value(), consecutive) << name;
    const auto stored = source->load_codes(name);
    ASSERT_TRUE(stored.has_value());
    EXPECT_EQ(stored->tensor.codes, q.codes);
    EXPECT_EQ(stored->tensor.group_index.empty(), consecutive);
    EXPECT_TRUE(source->load_codes(name, Codes::kSkip)->tensor.codes.empty());
  }
  EXPECT_FALSE(source->load_codes("model.layers.0.mlp.up_proj.weight").has_value());
}

// 2 bits, both versions, with and without act order; kernels have no tiles of that width straight from the words.
TEST(GptqCheckpoints, TwoBits) {
  for (const GptqVersion version : {GptqVersion::kV1, GptqVersion::kV2}) {
    for (const bool scattered : {false, true}) {
      TemporaryFolder folder;
      Checkpoint made(version, scattered);
      const std::string name = "model.layers.0.self_attn.q_proj.weight";
      QuantizedTensor q = made.codes.at(name);
      q.bits = 2;
      for (uint8_t& code : q.codes) code = static_cast<uint8_t>(code >> 2);
      for (uint8_t& zero : q.zeros) zero = static_cast<uint8_t>(1 + zero % 3);
      for (const char* part : {"qweight", "qzeros", "scales", "g_idx"})
        made.erase("model.layers.0.self_attn.q_proj." + std::string(part));
      made.add(name, q, pack_gptq(q, name, version));
      made.config["quantization_config"]["dynamic"] = {{"+:.*q_proj", {{"bits", 2}}}};
      const auto source = made.open(folder);
      source->check();
      EXPECT_EQ(source->load_blocks(name, 0, 16), nullptr);
      const auto stored = source->load_codes(name);
      EXPECT_EQ(stored->tensor.bits, 2);
      EXPECT_EQ(stored->tensor.codes, q.codes);
      EXPECT_EQ(stored->tensor.zeros, q.zeros);
      const Matrix m = source->load(name);
      for (int64_t n = 0; n < 16; ++n) {
        for (int64_t k = 0; k < 16; ++k) {
          const auto at = static_cast<size_t>(n * 2 + (scattered ? k % 2 : k / kGroup));
          ASSERT_EQ(m(n, k), static_cast<float>(int{q.codes[static_cast<size_t>(n * 16 + k)]} - int{q.zeros[at]}) *
                                 f16_to_f32(q.scales[at]));
        }
      }
    }
  }
}

TEST(GptqCheckpoints, GroupSizesOfSingleModules) {
  TemporaryFolder folder;
  Checkpoint made;
  made.config["quantization_config"]["group_size"] = 16;  // down has 24 inputs in groups of 8
  EXPECT_THROW(made.open(folder)->load(kModule + ".weight"), FormatError);
  made.config["quantization_config"]["dynamic"] = {{"+:.*proj", {{"group_size", 8}}}};
  const auto source = made.open(folder);
  EXPECT_EQ(source->load_codes(kModule + ".weight")->tensor.group_size, kGroup);
}

struct Damage {
  std::string name;
  std::function<void(Checkpoint&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}
class DamagedGptq : public testing::TestWithParam<Damage> {};

TEST_P(DamagedGptq, IsRefused) {
  TemporaryFolder folder;
  Checkpoint made;
  GetParam().change(made);
  check_error(GetParam().expected, [&] {
    const auto source = made.open(folder);
    source->check();
    source->load(kModule + ".weight");
  });
}

void set_group(Checkpoint& c, size_t k, int32_t group) {
  std::memcpy(c.at(kModule + ".g_idx").bytes.data() + 4 * k, &group, 4);
}

INSTANTIATE_TEST_SUITE_P(
    Gptq, DamagedGptq,
    testing::Values(Damage{"without_zeros", [](Checkpoint& c) { c.erase(kModule + ".qzeros"); },
                           expect<FormatError>({kModule + ".qzeros", "missing"})},
                    Damage{"without_scales", [](Checkpoint& c) { c.erase(kModule + ".scales"); },
                           expect<FormatError>({kModule + ".scales", "missing"})},
                    Damage{"without_codes", [](Checkpoint& c) { c.erase(kModule + ".qweight"); },
                           expect<FormatError>({kModule + ".qweight", "missing"})},
                    Damage{"group_out_of_range", [](Checkpoint& c) { set_group(c, 5, 2); },
                           expect<FormatError>({"gate_proj", "g_idx", "[5] is 2"})},
                    Damage{"group_negative", [](Checkpoint& c) { set_group(c, 15, -1); },
                           expect<FormatError>({"gate_proj", "g_idx", "[15] is -1"})},
                    Damage{"group_index_too_short",
                           [](Checkpoint& c) {
                             c.erase(kModule + ".g_idx");
                             c.tensors.push_back({kModule + ".g_idx", DType::kI32, {8}, Buffer(32)});
                           },
                           expect<FormatError>({"gate_proj", "g_idx", "[16]", "[8]"})},
                    Damage{"group_index_of_floats", [](Checkpoint& c) { c.at(kModule + ".g_idx").dtype = DType::kF32; },
                           expect<FormatError>({"gate_proj", "g_idx", "F32"})},
                    Damage{"codes_flat", [](Checkpoint& c) { c.at(kModule + ".qweight").shape = {48}; },
                           expect<FormatError>({kModule + ".qweight", "two dimensions", "[48]"})},
                    Damage{"codes_transposed", [](Checkpoint& c) { c.at(kModule + ".qweight").shape = {24, 2}; },
                           expect<FormatError>({"gate_proj.weight", "[24, 16]", "[2, 192]"})},
                    Damage{"there_twice",
                           [](Checkpoint& c) { c.tensors.push_back(test::f32_tensor(kModule + ".weight", {24, 16})); },
                           expect<FormatError>({kModule + ".weight", "twice"})},
                    Damage{"scales_of_another_group_size",
                           [](Checkpoint& c) { c.config["quantization_config"]["group_size"] = 16; },
                           expect<FormatError>({"gate_proj", "model.safetensors"})},
                    Damage{"zeros_of_no_width_where_bits_differ",
                           [](Checkpoint& c) {
                             c.config["quantization_config"]["dynamic"] = {{"+:.*down.*", {{"bits", 8}}}};
                             c.at(kModule + ".qzeros").shape = {1, 6};  // 24 outputs have 3 words at 4 bits, 6 at 8
                             c.at(kModule + ".scales").shape = {4, 12};
                           },
                           expect<FormatError>({kModule + ".qweight", "4 or 8", "[1, 6]", "[4, 12]"})},
                    Damage{"group_size_zero", [](Checkpoint& c) { c.config["quantization_config"]["group_size"] = 0; },
                           expect<FormatError>({"group_size"})},
                    Damage{"bias_that_the_config_does_not_know",
                           [](Checkpoint& c) { c.tensors.push_back(test::f32_tensor(kModule + ".bias", {24})); },
                           expect<FormatError>({kModule + ".bias", "no bias"})}),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

}  // namespace
}  // namespace metal_marlin
