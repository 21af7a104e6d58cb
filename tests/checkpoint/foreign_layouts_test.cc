// Checkpoints of layouts that are only read: their values by the formula, and damaged ones.
#include <functional>

#include "checkpoint/foreign_model.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using test::ForeignModel;
using test::TemporaryFolder;

const std::string kModule = "model.layers.0.mlp.gate_proj";

struct Kind {
  const char* format;
  nlohmann::json config;
  ForeignModel::Pack pack;
  int bits = 4;
  int less = 0;  // by which codes and zeros are stored less than they are read
};

Kind gemv() {
  return {"awq_gemv", test::awq_config("gemv"), &test::pack_gemv};
}
Kind gemv_fast() {
  return {"awq_gemv_fast", test::awq_config("gemv_fast"), &test::pack_gemv_fast};
}
Kind hqq() {
  return {"hqq", test::hqq_config(), &test::pack_hqq};
}
Kind bytes() {
  return {"compressed-tensors", test::bytes_config(), &test::pack_bytes, 8, 120};
}
Kind with(Kind kind, const char* key, const nlohmann::json& value) {
  kind.config[key] = value;
  return kind;
}
Kind llm_awq(const char* version) {
  Kind kind = with(gemv_fast(), "backend", "llm-awq");
  kind.config["version"] = version;
  kind.pack = &test::pack_llm_awq;
  return kind;
}
Kind hqq_by_module() {
  Kind kind = hqq();
  const nlohmann::json settings = kind.config["quant_config"];
  kind.config["quant_config"] = {{"self_attn.q_proj", settings}, {"mlp.gate_proj", settings}};
  return kind;
}

class ForeignLayout : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ForeignLayout,
                         testing::Values(gemv(), with(gemv(), "version", "GEMV"), gemv_fast(), llm_awq("gemv_fast"),
                                         llm_awq("gemm"), hqq(), hqq_by_module(), Kind{"hqq", nullptr, &test::pack_hqq},
                                         bytes(), with(bytes(), "format", "naive-quantized")));

TEST_P(ForeignLayout, ValuesFollowTheFormula) {
  TemporaryFolder folder;
  const ForeignModel made(GetParam().config, GetParam().pack);
  const auto source = made.open(folder);
  source->check();
  EXPECT_EQ(source->format(), GetParam().format);
  EXPECT_TRUE(source->quantized());
  EXPECT_TRUE(source->warnings().empty()) << source->warnings().front();
  const auto shapes = ForeignModel::shapes();
  ASSERT_EQ(source->tensors().size(), shapes.size());
  for (const CheckpointTensor& t : source->tensors()) {
    EXPECT_EQ(t.shape, shapes.at(t.name)) << t.name;
    if (made.codes.count(t.name) == 0) continue;
    EXPECT_EQ(t.stored_as, source->format()) << t.name;
    EXPECT_EQ(t.bits, GetParam().bits);
    EXPECT_EQ(t.group_size, ForeignModel::kGroup);
  }
  for (const auto& [name, q] : made.codes) {
    const Matrix m = source->load(name);
    const Matrix rows = source->load(name, 3, 2);
    for (int64_t n = 0; n < q.out_features; ++n) {
      for (int64_t k = 0; k < q.in_features; ++k) {
        const size_t at = test::group_at(q, n, k / q.group_size);
        const float expected =
            static_cast<float>(int{test::code_at(q, n, k)} - int{q.zeros[at]}) * f16_to_f32(q.scales[at]);
        ASSERT_EQ(m(n, k), expected) << name << " " << n << " " << k;
        if (n == 3 || n == 4) {
          ASSERT_EQ(rows(n - 3, k), expected);
        }
      }
    }
    const auto stored = source->load_codes(name);
    ASSERT_TRUE(stored.has_value());
    EXPECT_EQ(stored->tensor.bits, GetParam().bits);
    EXPECT_EQ(stored->tensor.scales, q.scales);
    for (size_t i = 0; i < q.zeros.size(); ++i)
      ASSERT_EQ(int{stored->tensor.zeros[i]}, int{q.zeros[i]} + GetParam().less);
    EXPECT_TRUE(source->load_codes(name, Codes::kSkip)->tensor.codes.empty());
    EXPECT_EQ(source->load_blocks(name, 0, q.out_features), nullptr);
  }
}

// Whatever stands behind the groups of a row.
TEST(ForeignLayouts, PaddingOfGroupsIsNotLookedAt) {
  for (const Kind& kind : {gemv(), gemv_fast()}) {
    TemporaryFolder folder;
    ForeignModel made(kind.config, kind.pack);
    const Matrix before = made.open(folder)->load(kModule + ".weight");
    OwnedTensor& scales = made.at(kModule + ".scales");
    const uint16_t not_finite = 0x7e00;
    std::memcpy(scales.bytes.data() + scales.bytes.size() - 2, &not_finite, 2);
    const Matrix after = made.open(folder)->load(kModule + ".weight");
    EXPECT_EQ(test::values_of(before), test::values_of(after));
  }
}

// Scales of a quantized cache, which is not used here.
TEST(ForeignLayouts, ScalesOfTheCacheAreLeftAlone) {
  TemporaryFolder folder;
  ForeignModel made(test::bytes_config(), &test::pack_bytes);
  made.tensors.push_back(test::tensor_of<float>("model.layers.0.self_attn.v_scale", DType::kF32, {1}, {0.25F}));
  EXPECT_NO_THROW(made.open(folder)->check());
}

TEST(ForeignLayouts, ZerosOfHqqBetweenCodesBecomeMinima) {
  TemporaryFolder folder;
  ForeignModel made(test::hqq_config(), &test::pack_hqq);
  OwnedTensor& zero = made.at(kModule + ".zero");
  const uint16_t between = f32_to_f16(7.375F);
  std::memcpy(zero.bytes.data(), &between, 2);
  const auto source = made.open(folder);
  const auto stored = source->load_codes(kModule + ".weight");
  const QuantizedTensor& q = made.codes.at(kModule + ".weight");
  const float scale = f16_to_f32(q.scales[0]);
  const float minimum = static_cast<float>(static_cast<_Float16>(-7.375F * scale));
  ASSERT_FALSE(stored->tensor.minima.empty());
  EXPECT_EQ(f16_to_f32(stored->tensor.minima[0]), minimum);
  EXPECT_EQ(source->load(kModule + ".weight")(0, 5), static_cast<float>(q.codes[5]) * scale + minimum);
}

// Sums of scales and zeros that no code gives are the minima as they are.
TEST(ForeignLayouts, ScaledZerosThatAreNoProductsBecomeMinima) {
  TemporaryFolder folder;
  ForeignModel made(test::awq_config("gemv_fast"), &test::pack_gemv_fast);
  const uint16_t other = f32_to_f16(0.3F);
  std::memcpy(made.at(kModule + ".qzeros").bytes.data(), &other, 2);
  const auto stored = made.open(folder)->load_codes(kModule + ".weight");
  ASSERT_FALSE(stored->tensor.minima.empty());
  EXPECT_EQ(stored->tensor.minima[0], other);
  EXPECT_FALSE(stored->tensor.symmetric);
}

struct Damage {
  std::string name;
  Kind kind;
  std::function<void(ForeignModel&)> change;
  test::Expected expected;
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}
class DamagedForeign : public testing::TestWithParam<Damage> {};

TEST_P(DamagedForeign, IsRefused) {
  TemporaryFolder folder;
  ForeignModel made(GetParam().kind.config, GetParam().kind.pack);
  GetParam().change(made);
  check_error(GetParam().expected, [&] {
    const auto source = made.open(folder);
    source->check();
    source->load(kModule + ".weight");
  });
}

Damage without(const Kind& kind, const std::string& part) {
  return {std::string(kind.format == std::string("compressed-tensors") ? "bytes" : kind.format) + "_without_" + part,
          kind, [part](ForeignModel& m) { m.erase(kModule + "." + part); },
          expect<FormatError>({kModule + "." + part, "missing"})};
}
Damage shaped(const std::string& name, const Kind& kind, const std::string& part, const std::vector<int64_t>& shape,
              const std::vector<std::string>& texts) {
  return {name, kind,
          [part, shape](ForeignModel& m) {
            OwnedTensor& t = m.at(kModule + "." + part);
            size_t bytes = dtype_size(t.dtype);
            for (const int64_t d : shape) bytes *= static_cast<size_t>(d);
            t.shape = shape;
            t.bytes = Buffer(bytes);
          },
          expect<FormatError>(texts)};
}
Damage typed(const std::string& name, const Kind& kind, const std::string& part, DType type,
             const std::vector<std::string>& texts) {
  return {name, kind, [part, type](ForeignModel& m) { m.at(kModule + "." + part).dtype = type; },
          expect<FormatError>(texts)};
}
template <typename E>
Damage noted(const std::string& name, const std::string& part, int32_t value, const std::vector<std::string>& texts) {
  return {name, hqq(),
          [part, value](ForeignModel& m) {
            OwnedTensor& t = m.at(kModule + "." + part);
            if (t.dtype == DType::kU8) {
              t.bytes.data()[0] = static_cast<std::byte>(value);
            } else {
              std::memcpy(t.bytes.data(), &value, 4);
            }
          },
          expect<E>(texts)};
}
template <typename E>
Damage configured(const std::string& name, const Kind& kind, const std::string& pointer, const nlohmann::json& value,
                  const std::vector<std::string>& texts) {
  return {name, kind,
          [pointer, value](ForeignModel& m) {
            m.config["quantization_config"][nlohmann::json::json_pointer(pointer)] = value;
          },
          expect<E>(texts)};
}
void set_half(OwnedTensor& t, uint16_t bits) {
  std::memcpy(t.bytes.data(), &bits, 2);
}
constexpr uint16_t kNan = 0x7e00;

INSTANTIATE_TEST_SUITE_P(
    Awq, DamagedForeign,
    testing::Values(
        without(gemv(), "qzeros"), without(gemv(), "scales"), without(gemv_fast(), "qzeros"),
        without(llm_awq("gemv_fast"), "qweight"),
        shaped("gemv_scales_without_padding", gemv(), "scales", {128, 2},
               {"gate_proj", "scales", "[128, 32]", "[128, 2]"}),
        shaped("gemv_zeros_too_narrow", gemv(), "qzeros", {128, 1}, {"gate_proj", "qzeros", "[128, 4]"}),
        shaped("gemv_codes_flat", gemv(), "qweight", {1024}, {kModule + ".qweight", "two dimensions"}),
        shaped("gemv_codes_of_other_rows", gemv(), "qweight", {64, 16}, {"gate_proj", "[128, 64]"}),
        shaped("gemv_fast_scales_without_padding", gemv_fast(), "scales", {2, 128},
               {"gate_proj", "scales", "[32, 128]"}),
        typed("gemv_fast_codes_of_gemm", gemv_fast(), "qweight", DType::kBF16,
              {kModule + ".qweight", "I16", "BF16", "gemm"}),
        typed("gemv_zeros_of_floats", gemv(), "qzeros", DType::kF32, {"gate_proj", "qzeros", "I32", "F32"}),
        Damage{"gemv_scale_not_finite", gemv(), [](ForeignModel& m) { set_half(m.at(kModule + ".scales"), kNan); },
               expect<FormatError>({"gate_proj", "scales", "[0, 0]", "not finite"})},
        Damage{"gemv_fast_zero_not_finite", gemv_fast(),
               [](ForeignModel& m) { set_half(m.at(kModule + ".qzeros"), kNan); },
               expect<FormatError>({"gate_proj", "scaled zeros", "not finite"})},
        configured<FormatError>("gemv_groups_of_16", gemv(), "/group_size", 16, {"gate_proj", "32, 64, or 128", "16"}),
        configured<FormatError>("gemv_groups_that_do_not_divide", gemv(), "/group_size", 48, {"gate_proj", "48", "64"}),
        configured<UnsupportedError>("awq_of_an_unknown_version", gemv(), "/version", "ipex",
                                     {"config.json", "ipex", "gemv_fast"}),
        configured<UnsupportedError>("gemv_of_eight_bits", gemv(), "/bits", 8, {"8 bits", "4"})),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Hqq, DamagedForeign,
    testing::Values(
        without(hqq(), "scale"), without(hqq(), "zero"), without(hqq(), "shape"), without(hqq(), "W_q"),
        noted<FormatError>("hqq_nbits_of_another_number", "nbits", 3, {kModule + ".W_q", "nbits", "4", "3"}),
        noted<FormatError>("hqq_group_size_of_another_number", "group_size", 64, {"group_size", "32", "64"}),
        noted<FormatError>("hqq_axis_of_another_number", "axis", 0, {"axis", "expected 1"}),
        noted<UnsupportedError>("hqq_scales_quantized", "quant_scale", 1, {kModule + ".W_q", "quant_scale", "pickle"}),
        noted<UnsupportedError>("hqq_zeros_quantized", "quant_zero", 1, {kModule + ".W_q", "quant_zero", "pickle"}),
        noted<UnsupportedError>("hqq_one_scale_for_all", "channel_wise", 0, {kModule + ".W_q", "channel_wise"}),
        shaped("hqq_note_of_two_numbers", hqq(), "nbits", {2}, {kModule + ".W_q", "nbits", "one number", "[2]"}),
        shaped("hqq_zeros_of_another_shape", hqq(), "zero", {256, 2}, {"gate_proj", "zero", "[256, 1]", "[256, 2]"}),
        shaped("hqq_codes_cut", hqq(), "W_q", {127, 32}, {kModule + ".W_q", "256 groups of 32", "[127, 32]"}),
        shaped("hqq_shape_of_three", hqq(), "shape", {3}, {kModule + ".W_q", "shape", "[2]", "[3]"}),
        shaped("hqq_shape_of_zeros", hqq(), "shape", {2}, {kModule + ".W_q", "shape", "positive"}),
        typed("hqq_zeros_of_integers", hqq(), "zero", DType::kI16, {"gate_proj", "zero", "F16", "I16"}),
        Damage{"hqq_groups_along_the_outputs", hqq(),
               [](ForeignModel& m) { m.at(kModule + ".scale").shape = {1, 256}; },
               expect<UnsupportedError>({kModule + ".W_q", "axis 0", "[1, 256]"})},
        Damage{"hqq_zero_not_finite", hqq(), [](ForeignModel& m) { set_half(m.at(kModule + ".zero"), kNan); },
               expect<FormatError>({"gate_proj", "zero", "not finite"})},
        configured<FormatError>("hqq_config_of_other_bits", hqq(), "/quant_config/weight_quant_params/nbits", 8,
                                {".W_q", "8 bits", "nbits", "found 4"}),
        configured<UnsupportedError>("hqq_config_of_axis_0", hqq(), "/quant_config/weight_quant_params/axis", 0,
                                     {"config.json", "axis 0", "axis 1"}),
        configured<UnsupportedError>("hqq_config_of_seven_bits", hqq(), "/quant_config/weight_quant_params/nbits", 7,
                                     {"config.json", "7 bits"}),
        configured<UnsupportedError>("hqq_config_of_quantized_scales", hqq(), "/quant_config/scale_quant_params",
                                     {{"nbits", 8}}, {"config.json", "scale_quant_params", "pickle"})),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Bytes, DamagedForeign,
    testing::Values(
        shaped("bytes_scales_of_other_rows", bytes(), "weight_scale", {127, 2},
               {"gate_proj", "weight_scale", "[128, 2]"}),
        shaped("bytes_groups_that_do_not_divide", bytes(), "weight_scale", {128, 3},
               {kModule + ".weight", "weight_scale", "[128, 64]", "[128, 3]"}),
        shaped("bytes_zeros_of_another_shape", bytes(), "weight_zero_point", {128, 1},
               {"gate_proj", "weight_zero_point", "[128, 2]"}),
        typed("bytes_zeros_of_floats", bytes(), "weight_zero_point", DType::kF8E4M3,
              {"gate_proj", "weight_zero_point", "I8", "F8_E4M3"}),
        typed("bytes_of_no_sign", bytes(), "weight", DType::kU8, {"gate_proj", "weight", "I8", "U8"}),
        Damage{"bytes_without_scale", bytes(), [](ForeignModel& m) { m.erase(kModule + ".weight_scale"); },
               expect<FormatError>({kModule + ".weight_scale", "missing"})},
        Damage{"bytes_scale_not_finite", bytes(),
               [](ForeignModel& m) { set_half(m.at(kModule + ".weight_scale"), kNan); },
               expect<FormatError>({"gate_proj", "weight_scale", "not finite"})},
        configured<FormatError>("bytes_in_a_format_of_floats", bytes(), "/format", "float-quantized",
                                {"config.json", "int", "float-quantized"}),
        configured<UnsupportedError>("bytes_in_an_unknown_format", bytes(), "/format", "nvfp4-pack-quantized",
                                     {"config.json", "nvfp4-pack-quantized", "int-quantized"}),
        configured<UnsupportedError>("bytes_sparse", bytes(), "/sparsity_config", {{"format", "sparse-24-bitmask"}},
                                     {"config.json", "sparsity_config", "sparse-24-bitmask"}),
        configured<UnsupportedError>("floats_of_four_bits", bytes(), "/config_groups/group_0/weights",
                                     {{"num_bits", 4}, {"type", "float"}}, {"config.json", "float", "4 bits"})),
    [](const testing::TestParamInfo<Damage>& p) { return p.param.name; });

}  // namespace
}  // namespace metal_marlin
