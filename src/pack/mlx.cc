#include "pack/mlx.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pack/bits/row_stream.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

// -z s: exact in float32, because a code has 8 bits and a scale at most 11.
float bias_of(const QuantizedTensor& t, size_t group) noexcept {
  return 0.0F - static_cast<float>(t.zeros[group]) * t.scale(group);  // never -0
}

bool holds(ScaleType type, float value) noexcept {
  return decode_scale(encode_scale(value, type), type) == value;
}

// Zeros in place of minima, where each minimum is -z s.
void use_zeros_where_exact(QuantizedTensor& t) {
  std::vector<uint8_t> zeros(t.scales.size());
  const float top = static_cast<float>((1 << t.bits) - 1);
  for (size_t i = 0; i < zeros.size(); ++i) {
    const float scale = t.scale(i);
    const float minimum = t.minimum(i);
    const float zero = scale == 0 ? 0.0F : -minimum / scale;
    if (!(zero >= 0 && zero <= top) || std::nearbyint(zero) * scale != -minimum) return;
    zeros[i] = static_cast<uint8_t>(std::nearbyint(zero));
  }
  t.zeros = std::move(zeros);
  t.minima.clear();
  const auto middle = static_cast<uint8_t>(1 << (t.bits - 1));
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [&](uint8_t z) { return z == middle; });
}

}  // namespace

std::string inexact_bias(const QuantizedTensor& t) {
  if (!t.minima.empty()) return {};
  for (size_t i = 0; i < t.scales.size(); ++i) {
    if (holds(t.scale_type, bias_of(t, i))) continue;
    const auto groups = static_cast<size_t>(t.groups());
    return fmt::format("the bias of output channel {}, group {} would be -{} * {}, which {} does not hold", i / groups,
                       i % groups, t.zeros[i], t.scale(i), t.scale_type == ScaleType::kF16 ? "float16" : "bfloat16");
  }
  return {};
}

PackedTensor pack_mlx(const QuantizedTensor& t, const std::string& name) {
  check_packable(t, name, {.name = "MLX", .widths = {kMlxWidths.begin(), kMlxWidths.end()}, .minima = true});
  if (t.group_size != 32 && t.group_size != 64 && t.group_size != 128) {
    throw ArgumentError(fmt::format("{}: MLX has groups of 32, 64 or 128, found {}", name, t.group_size));
  }
  if (const std::string reason = inexact_bias(t); !reason.empty())
    throw ArgumentError(fmt::format("{}: {}", name, reason));
  PackedTensor out;
  out.parts.resize(3);
  std::byte* words = prepare_part(out, 0, "weight", DType::kU32, {t.out_features, row_words(t.in_features, t.bits)});
  if (!pack_rows(t.codes.data(), t.out_features, t.in_features, t.bits, words)) refuse_codes(t, name);
  const DType type = dtype_of(t.scale_type);
  std::memcpy(prepare_part(out, 1, "scales", type, {t.out_features, t.groups()}), t.scales.data(),
              t.scales.size() * sizeof(uint16_t));
  std::vector<uint16_t> biases = t.minima;
  if (biases.empty()) {
    biases.resize(t.scales.size());
    for (size_t i = 0; i < biases.size(); ++i) biases[i] = encode_scale(bias_of(t, i), t.scale_type);
  }
  std::memcpy(prepare_part(out, 2, "biases", type, {t.out_features, t.groups()}), biases.data(),
              biases.size() * sizeof(uint16_t));
  return out;
}

QuantizedTensor unpack_mlx(const TensorView& weight, const TensorView& scales, const TensorView& biases,
                           int64_t group_size, int bits, const std::string& name, Codes codes) {
  if (weight.shape.size() != 2 || scales.shape.size() != 2 || scales.shape[1] < 1 || group_size < 1) {
    throw FormatError(fmt::format("{}: expected codes and scales of two dimensions, found {} and {}", name,
                                  shape_string(weight.shape), shape_string(scales.shape)));
  }
  QuantizedTensor t;
  t.bits = bits;
  t.group_size = group_size;
  t.out_features = weight.shape[0];
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (t.out_features < 1 || t.out_features > kLargest || scales.shape[1] > kLargest / group_size) {
    throw FormatError(fmt::format("{}: the shape {} is out of range", name, shape_string(scales.shape)));
  }
  t.in_features = scales.shape[1] * group_size;
  expect_part(weight, DType::kU32, std::array<int64_t, 2>{t.out_features, row_words(t.in_features, bits)}, name,
              "weight");
  set_group_floats(read_group_floats(scales, t.out_features, t.groups(), name, "scales"),
                   read_group_floats(biases, t.out_features, t.groups(), name, "biases"), name, t);
  t.zeros.assign(t.scales.size(), 0);
  t.symmetric = false;
  use_zeros_where_exact(t);
  if (codes == Codes::kRead) {
    t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
    unpack_rows(weight.bytes.data(), t.out_features, t.in_features, bits, t.codes.data());
  }
  return t;
}

}  // namespace metal_marlin
