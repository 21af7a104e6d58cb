#include "write/float_conversion.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace metal_marlin {
namespace {

constexpr uint16_t kLargestF16 = 0x7bff;

template <typename Stored, typename ToFloat>
void convert(const TensorView& tensor, uint16_t* out, F16Conversion& result, ToFloat to_float) {
  const auto count = static_cast<size_t>(tensor.elements());
  for (size_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, tensor.bytes.data() + i * sizeof(Stored), sizeof(Stored));
    const float value = to_float(stored);
    if (std::isnan(value)) {
      throw NumericError(
          fmt::format("{}: element {} is NaN; the checkpoint is damaged, fetch it again", tensor.name, i));
    }
    uint16_t half = f32_to_f16(value);
    if (std::isfinite(value)) {
      result.largest = std::max(result.largest, std::fabs(value));
      if (!f16_fits(value)) {
        half = static_cast<uint16_t>((half & 0x8000u) | kLargestF16);
        ++result.clamped;
      } else if ((half & 0x7fffu) == 0 && value != 0.0f) {
        ++result.flushed;
      }
      if (f16_to_f32(half) != value) ++result.rounded;
    }
    out[i] = half;
  }
}

}  // namespace

void convert_to_f16(const TensorView& tensor, uint16_t* out, F16Conversion& result) {
  switch (tensor.dtype) {
    case DType::kF16:
      return convert<uint16_t>(tensor, out, result, [](uint16_t h) { return f16_to_f32(h); });
    case DType::kBF16:
      return convert<uint16_t>(tensor, out, result, [](uint16_t h) { return bf16_to_f32(h); });
    case DType::kF32:
      return convert<float>(tensor, out, result, [](float f) { return f; });
    default:
      throw UnsupportedError(
          fmt::format("{}: expected F16, BF16 or F32, found {}", tensor.name, dtype_name(tensor.dtype)));
  }
}

}  // namespace metal_marlin
