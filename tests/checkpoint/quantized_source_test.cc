// Checkpoints in 4 bits (AWQ gemm, native): the formula of the format against load(), and damaged ones.
#include <cmath>
#include <functional>

#include "checkpoint/models.h"
#include "checkpoint/packed_model.h"
#include "core/half.h"
#include "pack/awq_gemm.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::small_config;
using test::small_shapes;
using test::TemporaryFolder;
using test::values_of;

constexpr int64_t kGroup = 8;

// w[n, k] = (code - zero) * scale, the formula of core/values.h written out.
float value_of(const QuantizedTensor& q, int64_t n, int64_t k) {
  const auto at = static_cast<size_t>(n * q.groups() + k / kGroup);
  return static_cast<float>(int{q.codes[static_cast<size_t>(n * q.in_features + k)]} - int{q.zeros[at]}) *
         f16_to_f32(q.scales[at]);
}

struct Checkpoint : test::PackedModel {
  bool native = false;

  explicit Checkpoint(bool is_native, bool with_q_scale = false) : native(is_native) {
    config["quantization_config"] = {{"quant_method", native ? "metal_marlin" : "awq"},
                                     {"bits", 4},
                                     {"group_size", kGroup},
                                     {"zero_point", true},
                                     {"version", native ? "native" : "gemm"},
                                     {"modules_to_not_convert", {"mlp.up_proj"}}};
    for (const auto& [name, shape] : small_shapes()) {
      if (!is_linear(name) || name.find("up_proj") != std::string::npos) {
        tensors.push_back(test::f32_tensor(name, shape));
        continue;
      }
      QuantizedTensor q = test::random_codes(name, shape, kGroup);
      std::vector<uint16_t> q_scale;
      for (int64_t k = 0; with_q_scale && k < shape[1]; ++k)
        q_scale.push_back(f32_to_f16(0.5F + static_cast<float>(k % 4)));
      PackedTensor packed = native ? pack_native(q, name, q_scale) : pack_awq_gemm(q, name);
      add(name, std::move(q), std::move(packed));
    }
  }
  void set_version_2(const std::string& bits, const std::string& linears) {
    metadata = {{"metal_marlin.version", "2"}, {"metal_marlin.bits", bits}, {"metal_marlin.tensors", linears}};
  }
};

class QuantizedCheckpoint : public testing::TestWithParam<bool> {};

TEST_P(QuantizedCheckpoint, EachLinearOnceWithItsLogicalShape) {
  TemporaryFolder folder;
  const Checkpoint made(GetParam());
  const auto source = made.open(folder);
  source->check();
  EXPECT_EQ(source->format(), GetParam() ? "native" : "awq");
  const auto shapes = small_shapes();
  const auto tensors = source->tensors();
  ASSERT_EQ(tensors.size(), shapes.size());
  for (const CheckpointTensor& t : tensors) {
    EXPECT_EQ(t.shape, shapes.at(t.name)) << t.name;
    EXPECT_EQ(t.stored_as, made.codes.count(t.name) > 0 ? source->format() : "F32") << t.name;
    if (t.name == "model.layers.0.mlp.down_proj.weight") {
      // 16 x 24 codes in 4 bits, 16 x 3 scales in f16, as many zeros: in f16, or in 4 bits
      EXPECT_EQ(t.bytes, 16U * 24U / 2 + 16U * 3 * 2 + (GetParam() ? 16U * 3 * 2 : 16U * 3 / 2));
    }
  }
}

TEST_P(QuantizedCheckpoint, CodesAndValues) {
  TemporaryFolder folder;
  const Checkpoint made(GetParam());
  const auto source = made.open(folder);
  for (const auto& [name, q] : made.codes) {
    SCOPED_TRACE(name);
    const auto found = source->load_quantized(name);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->codes, q.codes);
    EXPECT_EQ(found->scales, q.scales);
    EXPECT_EQ(found->zeros, q.zeros);
    EXPECT_EQ(found->group_size, kGroup);
    const Matrix m = source->load(name);
    const auto half = test::stored_values(source->load_stored(name).view());
    ASSERT_EQ(m.rows(), q.out_features);
    for (int64_t n = 0; n < m.rows(); ++n) {
      for (int64_t k = 0; k < m.cols(); ++k) {
        ASSERT_EQ(m(n, k), value_of(q, n, k));
        ASSERT_EQ(half[static_cast<size_t>(n * m.cols() + k)], static_cast<float>(static_cast<_Float16>(m(n, k))));
      }
    }
    const Matrix rows = source->load(name, 3, 2);
    EXPECT_EQ(rows(1, 9), value_of(q, 4, 9));
    source->release(name);
  }
  EXPECT_FALSE(source->load_quantized("model.layers.0.mlp.up_proj.weight").has_value());
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedCheckpoint, testing::Values(false, true),
                         [](const testing::TestParamInfo<bool>& p) { return p.param ? "native" : "awq"; });

TEST(QuantizedCheckpoints, ChannelScalesDivideTheWeight) {
  TemporaryFolder folder;
  const Checkpoint made(true, true);
  const auto source = made.open(folder);
  source->check();
  const std::string name = "model.layers.0.mlp.gate_proj.weight";
  const Matrix m = source->load(name);
  for (int64_t n = 0; n < m.rows(); ++n) {
    for (int64_t k = 0; k < m.cols(); ++k)
      ASSERT_EQ(m(n, k), value_of(made.codes.at(name), n, k) / (0.5F + static_cast<float>(k % 4)));
  }
  EXPECT_FALSE(source->load_quantized(name).has_value());  // the codes alone are another matrix
}

struct Damage {
  std::string name;
  bool native = false;
  std::function<void(Checkpoint&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}
class DamagedQuantized : public testing::TestWithParam<Damage> {};

const std::string kModule = "model.layers.0.mlp.gate_proj";

TEST_P(DamagedQuantized, IsRefused) {
  TemporaryFolder folder;
  Checkpoint made(GetParam().native, true);
  GetParam().change(made);
  test::Expected expected = GetParam().expected;
  check_error(expected, [&] {
    const auto source = made.open(folder);
    source->check();
    source->load(kModule + ".weight");
  });
}

INSTANTIATE_TEST_SUITE_P(
    Quantized, DamagedQuantized,
    testing::Values(
        Damage{"awq_without_scales", false, [](Checkpoint& c) { c.erase(kModule + ".scales"); },
               expect<FormatError>({kModule + ".scales", "missing"})},
        Damage{"awq_without_zeros", false, [](Checkpoint& c) { c.erase(kModule + ".qzeros"); },
               expect<FormatError>({kModule + ".qzeros", "missing"})},
        Damage{"awq_without_codes", false, [](Checkpoint& c) { c.erase(kModule + ".qweight"); },
               expect<FormatError>({kModule + ".qweight", "missing"})},
        Damage{"awq_codes_flat", false, [](Checkpoint& c) { c.at(kModule + ".qweight").shape = {48}; },
               expect<FormatError>({kModule + ".qweight", "two dimensions", "[48]"})},
        Damage{"awq_codes_transposed", false, [](Checkpoint& c) { c.at(kModule + ".qweight").shape = {3, 16}; },
               expect<FormatError>({"gate_proj.weight", "[24, 16]", "[128, 3]"})},
        Damage{"awq_scales_of_another_group_size", false,
               [](Checkpoint& c) { c.config["quantization_config"]["group_size"] = 16; },
               expect<FormatError>({"gate_proj", "model.safetensors"})},
        Damage{"awq_scale_is_nan", false,
               [](Checkpoint& c) {
                 const uint16_t nan = 0x7E00;
                 std::memcpy(c.at(kModule + ".scales").bytes.data(), &nan, 2);
               },
               expect<FormatError>({"gate_proj", "finite"})},
        Damage{"native_without_scales", true, [](Checkpoint& c) { c.erase(kModule + ".weight.scales"); },
               expect<FormatError>({kModule + ".weight.scales", "missing"})},
        Damage{"native_without_zeros", true, [](Checkpoint& c) { c.erase(kModule + ".weight.zeros"); },
               expect<FormatError>({kModule + ".weight.zeros", "missing"})},
        Damage{"native_of_the_earlier_implementation", true, [](Checkpoint& c) { c.metadata.clear(); },
               expect<UnsupportedError>({"nibble_offset", "earlier numpy implementation", "awq_load"})},
        Damage{"native_of_another_offset", true, [](Checkpoint& c) { c.metadata["metal_marlin.nibble_offset"] = "7"; },
               expect<UnsupportedError>({"expected 8", "found 7"})},
        Damage{"native_of_a_later_version", true, [](Checkpoint& c) { c.metadata["metal_marlin.version"] = "3"; },
               expect<UnsupportedError>({"metal_marlin.version", "expected 1 or 2", "found 3"})},
        Damage{"native_of_5_bits", true, [](Checkpoint& c) { c.set_version_2("5", "{}"); },
               expect<UnsupportedError>({"metal_marlin.bits", "3, 4 or 8", "found 5"})},
        Damage{"native_without_bits", true, [](Checkpoint& c) { c.set_version_2("", "{}"); },
               expect<UnsupportedError>({"metal_marlin.bits"})},
        Damage{"native_bits_are_no_number", true, [](Checkpoint& c) { c.set_version_2("[4", "{}"); },
               expect<UnsupportedError>({"metal_marlin.bits"})},
        Damage{"native_tensors_are_no_object", true, [](Checkpoint& c) { c.set_version_2("4", "[1"); },
               expect<FormatError>({"metal_marlin.tensors", "JSON object"})},
        Damage{"native_linear_of_4_bits_and_a_half", true,
               [](Checkpoint& c) { c.set_version_2("4", "{\"" + kModule + ".weight\": {\"bits\": 4.5}}"); },
               expect<UnsupportedError>({kModule, "3, 4 or 8", "4.5"})},
        Damage{"native_linear_of_other_bits_than_stored", true,
               [](Checkpoint& c) { c.set_version_2("4", "{\"" + kModule + ".weight\": {\"bits\": 8}}"); },
               expect<FormatError>({"gate_proj"})},
        Damage{"awq_of_8_bits", false, [](Checkpoint& c) { c.config["quantization_config"]["bits"] = 8; },
               expect<UnsupportedError>({"8 bits", "supported are 4"})},
        Damage{"native_config_of_5_bits", true, [](Checkpoint& c) { c.config["quantization_config"]["bits"] = 5; },
               expect<UnsupportedError>({"5 bits", "3, 4 or 8"})},
        Damage{"native_zero_is_fractional", true,
               [](Checkpoint& c) {
                 const uint16_t half = f32_to_f16(0.5F);
                 std::memcpy(c.at(kModule + ".weight.zeros").bytes.data(), &half, 2);
               },
               expect<FormatError>({"gate_proj"})},
        Damage{"native_channel_scale_zero", true,
               [](Checkpoint& c) {
                 const uint16_t zero = 0;
                 std::memcpy(c.at(kModule + ".weight.q_scale").bytes.data(), &zero, 2);
               },
               expect<FormatError>({"gate_proj"})}),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

}  // namespace
}  // namespace metal_marlin
