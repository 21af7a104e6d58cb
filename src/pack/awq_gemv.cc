#include "pack/awq_gemv.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/half.h"
#include "core/threads.h"
#include "pack/bits/nibbles.h"
#include "pack/bits/row_stream.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int kBits = 4;
constexpr int64_t kPerWord = 8;
constexpr int64_t kLargest = int64_t{1} << 31;

// Z of the header.
int64_t zero_words(const QuantizedTensor& t, const std::string& name) {
  const int64_t multiple = t.group_size >= 128 ? 1 : t.group_size == 64 ? 2 : t.group_size == 32 ? 4 : 0;
  if (multiple == 0)
    throw FormatError(fmt::format("{}: expected groups of 32, 64, or 128 and more, found {}", name, t.group_size));
  const int64_t words = (t.groups() + kPerWord - 1) / kPerWord;
  return (words + multiple - 1) / multiple * multiple;
}

// A tensor of this shape without values.
QuantizedTensor sized(int64_t out_features, int64_t in_features, int64_t group_size, const std::string& name) {
  QuantizedTensor t;
  t.bits = kBits;
  t.out_features = out_features;
  t.in_features = in_features;
  t.group_size = explicit_group_size(group_size, in_features, name);
  return t;
}

void expect_matrix(const TensorView& part, const std::string& name, const char* expected, int64_t rows_of,
                   int64_t columns_of) {
  if (part.shape.size() == 2 && part.shape[0] > 0 && part.shape[1] > 0 && part.shape[0] <= kLargest &&
      part.shape[1] <= kLargest && part.shape[0] % rows_of == 0 && part.shape[1] % columns_of == 0)
    return;
  throw FormatError(fmt::format("{}: qweight: expected {}, found {} {}", name, expected, dtype_name(part.dtype),
                                shape_string(part.shape)));
}

// The first columns of each row.
template <typename T>
std::vector<T> first_columns(const T* from, int64_t rows, int64_t stride, int64_t columns) {
  std::vector<T> out(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * stride, columns, out.begin() + r * columns);
  return out;
}

void settle_symmetry(QuantizedTensor& t) {
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z == 1 << (kBits - 1); });
}

// The rows of the groups, without those behind them.
TensorView group_rows(const TensorView& part, const QuantizedTensor& t) {
  TensorView out = part;
  out.shape[0] = t.groups();
  out.bytes = part.bytes.first(static_cast<size_t>(t.groups() * t.out_features) * sizeof(uint16_t));
  return out;
}

// The code whose product with the scale, negated and rounded to float16, is `minimum`; nothing where there is none.
std::optional<uint8_t> zero_of(uint16_t scale_bits, uint16_t minimum) noexcept {
  const float scale = f16_to_f32(scale_bits);
  const float stored = f16_to_f32(minimum);
  if (scale == 0.0F) return stored == 0.0F ? std::optional<uint8_t>(0) : std::nullopt;
  const float zero = std::nearbyint(-stored / scale);
  if (!(zero >= 0.0F && zero < 16.0F)) return std::nullopt;
  if (f16_to_f32(f32_to_f16(-(scale * zero))) != stored) return std::nullopt;
  return static_cast<uint8_t>(zero);
}

void unpack_fast_rows(const std::byte* halves, const QuantizedTensor& t, uint8_t* codes) {
  constexpr int64_t kRows = 4;
  constexpr int64_t kBlock = 64;
  parallel_for(t.out_features / kRows, [&](int64_t r) {
    const std::byte* row = halves + 2 * r * t.in_features;
    for (int64_t at = 0; at < t.in_features; ++at) {
      const int64_t p = at % kBlock;
      uint8_t* to = codes + (kRows * r + p / 16) * t.in_features + at - p + 32 * (p / 8 % 2) + p % 8;
      const auto half = load<uint16_t>(row + 2 * at);
      for (int64_t nibble = 0; nibble < 4; ++nibble) to[8 * nibble] = static_cast<uint8_t>(half >> 4 * nibble & 15);
    }
  });
}

}  // namespace

QuantizedTensor unpack_awq_gemv(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                                int64_t group_size, const std::string& name, Codes codes) {
  expect_matrix(qweight, name, "I32 [out, in / 8]", 1, 1);
  QuantizedTensor t = sized(qweight.shape[0], qweight.shape[1] * kPerWord, group_size, name);
  expect_part(qweight, DType::kI32, qweight.shape, name, "qweight");
  const int64_t words = zero_words(t, name);
  const int64_t columns = words * kPerWord;
  expect_part(qzeros, DType::kI32, std::array<int64_t, 2>{t.out_features, words}, name, "qzeros");
  expect_part(scales, DType::kF16, std::array<int64_t, 2>{t.out_features, columns}, name, "scales");
  std::vector<uint16_t> stored(static_cast<size_t>(t.out_features * columns));
  std::memcpy(stored.data(), scales.bytes.data(), scales.bytes.size());
  t.scales = first_columns(stored.data(), t.out_features, columns, t.groups());
  const auto bad = std::find_if_not(t.scales.begin(), t.scales.end(), is_finite_f16);
  if (bad != t.scales.end()) {
    const int64_t at = bad - t.scales.begin();
    throw FormatError(fmt::format("{}: scales: [{}, {}] is not finite", name, at / t.groups(), at % t.groups()));
  }
  std::vector<uint8_t> zeros(static_cast<size_t>(t.out_features * columns));
  unpack_rows(qzeros.bytes.data(), t.out_features, columns, kBits, zeros.data());
  t.zeros = first_columns(zeros.data(), t.out_features, columns, t.groups());
  settle_symmetry(t);
  if (codes == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  unpack_rows(qweight.bytes.data(), t.out_features, t.in_features, kBits, t.codes.data());
  return t;
}

QuantizedTensor unpack_awq_gemv_fast(const TensorView& qweight, const TensorView& scaled_zeros,
                                     const TensorView& scales, int64_t group_size, const std::string& name,
                                     Codes codes) {
  expect_matrix(qweight, name, "I16 [out / 4, in], in a multiple of 64", 1, 64);
  QuantizedTensor t = sized(qweight.shape[0] * 4, qweight.shape[1], group_size, name);
  expect_part(qweight, DType::kI16, qweight.shape, name, "qweight");
  const std::array<int64_t, 2> padded = {zero_words(t, name) * kPerWord, t.out_features};
  expect_part(scales, DType::kF16, padded, name, "scales");
  expect_part(scaled_zeros, DType::kF16, padded, name, "scaled zeros");
  QuantizedTensor products = t;  // their products with the scales in place of these
  unpack_scales(group_rows(scaled_zeros, t), products, name + ": scaled zeros");
  unpack_scales(group_rows(scales, t), t, name);
  t.zeros.assign(t.scales.size(), 0);
  bool exact = true;
  for (size_t i = 0; i < t.zeros.size() && exact; ++i) {
    const auto zero = zero_of(t.scales[i], products.scales[i]);
    exact = zero.has_value();
    if (exact) t.zeros[i] = *zero;
  }
  if (!exact) {
    std::fill(t.zeros.begin(), t.zeros.end(), uint8_t{0});
    t.minima = std::move(products.scales);
    t.symmetric = false;
  } else {
    settle_symmetry(t);
  }
  if (codes == Codes::kSkip) return t;
  t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
  unpack_fast_rows(qweight.bytes.data(), t, t.codes.data());
  return t;
}

}  // namespace metal_marlin
