#include "core/values.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"

namespace metal_marlin {

const char* input_name(LinearInput input) noexcept {
  constexpr const char* kNames[kLinearInputs] = {"qkv", "o", "gate_up", "down"};
  return kNames[static_cast<int>(input)];
}

uint16_t encode_scale(float value, ScaleType type) noexcept {
  return type == ScaleType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
}

float decode_scale(uint16_t bits, ScaleType type) noexcept {
  return type == ScaleType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void dequantize_rows(const QuantizedTensor& t, int64_t first, int64_t count, float* out) noexcept {
  const int64_t groups = t.groups();
  for (int64_t r = 0; r < count; ++r) {
    const int64_t n = first + r;
    const uint8_t* codes = t.codes.data() + n * t.in_features;
    float* row = out + r * t.in_features;
    if (!t.group_index.empty()) {
      for (int64_t k = 0; k < t.in_features; ++k) {
        const auto at = static_cast<size_t>(n * groups + t.group_index[static_cast<size_t>(k)]);
        row[k] = static_cast<float>(codes[k] - t.zeros[at]) * t.scale(at) + t.minimum(at);
      }
      continue;
    }
    for (int64_t g = 0; g < groups; ++g) {
      const auto at = static_cast<size_t>(n * groups + g);
      const float scale = t.scale(at);
      const float minimum = t.minimum(at);
      const int zero = t.zeros[at];
      const int64_t end = std::min((g + 1) * t.group_size, t.in_features);
      for (int64_t k = g * t.group_size; k < end; ++k) row[k] = static_cast<float>(codes[k] - zero) * scale + minimum;
    }
  }
}

Matrix dequantize(const QuantizedTensor& tensor) {
  Matrix out(tensor.out_features, tensor.in_features);
  constexpr int64_t kRows = 64;
  parallel_for((tensor.out_features + kRows - 1) / kRows, [&](int64_t i) {
    const int64_t first = i * kRows;
    dequantize_rows(tensor, first, std::min(kRows, tensor.out_features - first),
                    out.data() + first * tensor.in_features);
  });
  return out;
}

void validate(const QuantizedTensor& t, const std::string& name) {
  if (t.out_features <= 0 || t.in_features <= 0 || t.group_size <= 0 || t.bits < 1 || t.bits > 8) {
    throw FormatError(fmt::format("{}: expected positive sizes and 1 to 8 bits, found [{}, {}], group {}, {} bits",
                                  name, t.out_features, t.in_features, t.group_size, t.bits));
  }
  const auto out = static_cast<size_t>(t.out_features);
  const size_t groups = out * static_cast<size_t>(t.groups());
  const size_t codes = out * static_cast<size_t>(t.in_features);
  if (t.codes.size() != codes || t.scales.size() != groups || t.zeros.size() != groups ||
      (!t.minima.empty() && t.minima.size() != groups)) {
    throw FormatError(fmt::format("{}: expected {} codes and {}, found {} codes, {}, {}, {} minima", name, codes,
                                  counted(groups, "group"), t.codes.size(), counted(t.scales.size(), "scale"),
                                  counted(t.zeros.size(), "zero"), t.minima.size()));
  }
  if (!t.group_index.empty() && t.group_index.size() != static_cast<size_t>(t.in_features)) {
    throw FormatError(fmt::format("{}: expected a group of each of {} input channels, found {}", name, t.in_features,
                                  t.group_index.size()));
  }
  for (const int32_t g : t.group_index) {
    if (g < 0 || g >= t.groups()) throw FormatError(fmt::format("{}: group {} of {}", name, g, t.groups()));
  }
  const int top = (1 << t.bits) - 1;
  // `top` is all ones, so that a code above it sets a bit that no other sets; this way many codes are taken at once.
  uint8_t seen = 0;
  for (const uint8_t code : t.codes) seen |= code;
  if (seen > top) {
    const auto bad = std::find_if(t.codes.begin(), t.codes.end(), [&](uint8_t code) { return code > top; });
    throw FormatError(fmt::format("{}: code {} above {}", name, *bad, top));
  }
  for (size_t i = 0; i < groups; ++i) {
    if (t.zeros[i] > top) throw FormatError(fmt::format("{}: zero {} above {}", name, t.zeros[i], top));
    if (!std::isfinite(t.scale(i))) throw FormatError(fmt::format("{}: scale {} is not finite", name, i));
    if (!std::isfinite(t.minimum(i))) throw FormatError(fmt::format("{}: minimum {} is not finite", name, i));
  }
}

}  // namespace metal_marlin
