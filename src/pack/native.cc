#include "pack/native.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/counted.h"
#include "core/half.h"
#include "pack/bits/bit_runs.h"
#include "pack/bits/nibbles.h"
#include "pack/bits/words_along_in.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

void pack_zeros(const QuantizedTensor& t, std::byte* out) {
  std::vector<uint16_t> halves(t.zeros.size());
  const int half = 1 << (t.bits - 1);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = f32_to_f16(static_cast<float>(t.zeros[i] - half));
  transpose_array(halves.data(), t.out_features, t.groups(), reinterpret_cast<uint16_t*>(out));
}

// The integers that f16 numbers are, by the upper 12 bits: those of -128 .. 127 have no others.
constexpr int16_t kNoInteger = 32767;
const std::array<int16_t, 4096>& integers_of_f16() {
  static const auto table = [] {
    std::array<int16_t, 4096> t;
    for (size_t i = 0; i < t.size(); ++i) {
      const float value = f16_to_f32(static_cast<uint16_t>(i << 4));
      const bool integer = std::fabs(value) <= 128 && value == std::nearbyint(value);
      t[i] = integer ? static_cast<int16_t>(value) : kNoInteger;
    }
    return t;
  }();
  return table;
}

void unpack_zeros(const TensorView& zeros, QuantizedTensor& t, const std::string& name) {
  const int64_t groups = t.groups();
  const int half = 1 << (t.bits - 1);
  const auto count = static_cast<size_t>(groups * t.out_features);
  const std::byte* in = zeros.bytes.data();
  uint16_t some = 0;
  for (size_t i = 0; i < count; ++i) some |= load<uint16_t>(in + 2 * i);
  if (some == 0) {  // symmetric
    t.zeros.assign(count, static_cast<uint8_t>(half));
    return;
  }
  const auto& integers = integers_of_f16();
  std::vector<uint8_t> values(count);
  bool bad = false;
  for (size_t i = 0; i < count; ++i) {
    const auto bits = load<uint16_t>(in + 2 * i);
    const int zero = integers[bits >> 4];
    bad |= (bits & 15) != 0 || zero < -half || zero >= half;
    values[i] = static_cast<uint8_t>(zero + half);
  }
  for (size_t i = 0; bad && i < count; ++i) {
    const float zero = f16_to_f32(load<uint16_t>(in + 2 * i));
    if (zero >= static_cast<float>(-half) && zero <= static_cast<float>(half - 1) && zero == std::nearbyint(zero))
      continue;
    const auto at = static_cast<int64_t>(i);
    throw FormatError(fmt::format("{}: zeros: [{}, {}] is {}, expected an integer in {}..{}", name, at / t.out_features,
                                  at % t.out_features, zero, -half, half - 1));
  }
  t.zeros.resize(count);
  transpose_array(values.data(), groups, t.out_features, t.zeros.data());
}

}  // namespace

void pack_native(const QuantizedTensor& t, const std::string& name, std::span<const uint16_t> q_scale,
                 PackedTensor& out) {
  check_packable(t, name, {.name = "native", .widths = {kNativeWidths.begin(), kNativeWidths.end()}});
  const int64_t n_all = t.out_features;
  const int64_t k_all = t.in_features;
  if (k_all % run_codes(t.bits) != 0) {
    throw ArgumentError(fmt::format("{}: in_features {} is no multiple of {}, as the native layout needs at {} bits",
                                    name, k_all, run_codes(t.bits), t.bits));
  }
  if (!q_scale.empty() && q_scale.size() != static_cast<size_t>(k_all)) {
    throw ArgumentError(fmt::format("{}: q_scale has {}, expected {}", name, counted(q_scale.size(), "value"), k_all));
  }
  out.parts.resize(q_scale.empty() ? 3 : 4);
  std::byte* words =
      prepare_part(out, 0, "weight", DType::kU32, {k_all / run_codes(t.bits) * run_words(t.bits), n_all});
  if (!pack_along_in(t.codes.data(), n_all, k_all, t.bits, words)) refuse_codes(t, name);
  pack_scales(t, prepare_part(out, 1, "weight.scales", DType::kF16, {t.groups(), n_all}));
  pack_zeros(t, prepare_part(out, 2, "weight.zeros", DType::kF16, {t.groups(), n_all}));
  if (!q_scale.empty()) {
    std::memcpy(prepare_part(out, 3, "weight.q_scale", DType::kF16, {k_all}), q_scale.data(), q_scale.size_bytes());
  }
}

PackedTensor pack_native(const QuantizedTensor& t, const std::string& name, std::span<const uint16_t> q_scale) {
  PackedTensor packed;
  pack_native(t, name, q_scale, packed);
  return packed;
}

QuantizedTensor unpack_native(const TensorView& weight, const TensorView& scales, const TensorView& zeros,
                              int64_t group_size, const std::string& name, Codes codes, int bits) {
  if (std::ranges::find(kNativeWidths, bits) == kNativeWidths.end()) {
    throw FormatError(fmt::format("{}: {} bits, expected {}", name, bits, list_widths(kNativeWidths)));
  }
  if (weight.shape.size() != 2 || weight.shape[0] <= 0 || weight.shape[1] <= 0 ||
      weight.shape[0] % run_words(bits) != 0) {
    throw FormatError(fmt::format("{}: weight: expected U32 [{} in / 32, out], found {} {}", name, bits,
                                  dtype_name(weight.dtype), shape_string(weight.shape)));
  }
  expect_part(weight, DType::kU32, weight.shape, name, "weight");
  QuantizedTensor t;
  t.bits = bits;
  t.out_features = weight.shape[1];
  t.in_features = weight.shape[0] / run_words(bits) * run_codes(bits);
  t.group_size = explicit_group_size(group_size, t.in_features, name);
  expect_part(scales, DType::kF16, {{t.groups(), t.out_features}}, name, "scales");
  expect_part(zeros, DType::kF16, {{t.groups(), t.out_features}}, name, "zeros");
  unpack_scales(scales, t, name);
  unpack_zeros(zeros, t, name);
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [&](uint8_t z) { return z == 1 << (bits - 1); });

  if (codes == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  unpack_along_in(weight.bytes.data(), t.out_features, t.in_features, bits, t.codes.data());
  return t;
}

std::vector<float> unpack_q_scale(const TensorView& q_scale, int64_t in_features, const std::string& name) {
  expect_part(q_scale, DType::kF16, {{in_features}}, name, "q_scale");
  std::vector<float> values(static_cast<size_t>(in_features));
  for (size_t k = 0; k < values.size(); ++k) {
    values[k] = f16_to_f32(load<uint16_t>(q_scale.bytes.data() + 2 * k));
    if (!(values[k] > 0) || !std::isfinite(values[k])) {
      throw FormatError(fmt::format("{}: q_scale: [{}] is {}, expected a finite number above 0", name, k, values[k]));
    }
  }
  return values;
}

}  // namespace metal_marlin
