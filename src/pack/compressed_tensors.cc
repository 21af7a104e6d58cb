#include "pack/compressed_tensors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/threads.h"
#include "pack/bits/row_stream.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

void pack_zero_columns(const QuantizedTensor& t, std::byte* out) {
  const int64_t groups = t.groups();
  const int64_t words = row_words(t.out_features, t.bits);
  std::vector<uint8_t> columns(t.zeros.size());
  transpose_array(t.zeros.data(), t.out_features, groups, columns.data());
  std::vector<uint32_t> rows(static_cast<size_t>(groups * words));
  pack_rows(columns.data(), groups, t.out_features, t.bits, reinterpret_cast<std::byte*>(rows.data()));
  std::vector<uint32_t> turned(rows.size());
  transpose_array(rows.data(), groups, words, turned.data());
  if (!turned.empty()) std::memcpy(out, turned.data(), turned.size() * sizeof(uint32_t));
}

void unpack_zero_columns(const TensorView& part, QuantizedTensor& t) {
  const int64_t groups = t.groups();
  const int64_t words = row_words(t.out_features, t.bits);
  std::vector<uint32_t> turned(static_cast<size_t>(groups * words));
  if (!turned.empty()) std::memcpy(turned.data(), part.bytes.data(), part.bytes.size());
  std::vector<uint32_t> rows(turned.size());
  transpose_array(turned.data(), words, groups, rows.data());
  std::vector<uint8_t> columns(t.zeros.size());
  unpack_rows(reinterpret_cast<const std::byte*>(rows.data()), groups, t.out_features, t.bits, columns.data());
  transpose_array(columns.data(), groups, t.out_features, t.zeros.data());
}

constexpr int kIntBits = 8;
constexpr uint8_t kIntMiddle = 128;

// One scale or zero for a whole weight as one for each row.
template <typename T>
std::vector<T> for_each_row(std::vector<T> values, bool of_weight, int64_t rows) {
  if (of_weight) values.resize(static_cast<size_t>(rows), values.front());
  return values;
}

// Signed bytes as codes.
void codes_of_bytes(const std::byte* from, int64_t count, uint8_t* to) noexcept {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(std::to_integer<uint8_t>(from[i]) ^ kIntMiddle);
}

}  // namespace

PackedTensor pack_compressed_tensors(const QuantizedTensor& t, const std::string& name) {
  check_packable(t, name,
                 {.name = "compressed-tensors",
                  .widths = {kCompressedTensorsWidths.begin(), kCompressedTensorsWidths.end()},
                  .minima = true});
  if (!t.minima.empty())
    throw ArgumentError(fmt::format("{}: the compressed-tensors layout holds zeros, found minima", name));
  const auto middle = static_cast<uint8_t>(1 << (t.bits - 1));
  if (t.symmetric && std::any_of(t.zeros.begin(), t.zeros.end(), [&](uint8_t z) { return z != middle; }))
    throw ArgumentError(fmt::format("{}: symmetric, but a zero is not {}", name, middle));
  PackedTensor out;
  out.parts.resize(t.symmetric ? 3 : 4);
  std::byte* words =
      prepare_part(out, 0, "weight_packed", DType::kI32, {t.out_features, row_words(t.in_features, t.bits)});
  if (!pack_rows(t.codes.data(), t.out_features, t.in_features, t.bits, words)) refuse_codes(t, name);
  std::byte* scales = prepare_part(out, 1, "weight_scale", dtype_of(t.scale_type), {t.out_features, t.groups()});
  std::memcpy(scales, t.scales.data(), t.scales.size() * sizeof(uint16_t));
  const std::array<int64_t, 2> shape = {t.out_features, t.in_features};
  std::memcpy(prepare_part(out, 2, "weight_shape", DType::kI64, {2}), shape.data(), sizeof shape);
  if (!t.symmetric) {
    pack_zero_columns(
        t, prepare_part(out, 3, "weight_zero_point", DType::kI32, {row_words(t.out_features, t.bits), t.groups()}));
  }
  return out;
}

std::array<int64_t, 2> read_weight_shape(const TensorView& part, const std::string& name, const char* what) {
  std::array<int64_t, 2> shape = {};
  expect_part(part, DType::kI64, std::array<int64_t, 1>{2}, name, what);
  std::memcpy(shape.data(), part.bytes.data(), sizeof shape);
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (shape[0] < 1 || shape[1] < 1 || shape[0] > kLargest || shape[1] > kLargest) {
    throw FormatError(
        fmt::format("{}: {}: expected two positive sizes, found {} and {}", name, what, shape[0], shape[1]));
  }
  return shape;
}

QuantizedTensor unpack_compressed_tensors(const TensorView& packed, const TensorView& scale, const TensorView& shape,
                                          const TensorView* zero_point, int64_t group_size, int bits,
                                          const std::string& name, Codes codes) {
  QuantizedTensor t;
  const auto [rows, columns] = read_weight_shape(shape, name);
  t.out_features = rows;
  t.in_features = columns;
  t.bits = bits;
  t.group_size = explicit_group_size(group_size, columns, name);
  const int64_t words = row_words(columns, bits);
  expect_part(packed, DType::kI32, std::array<int64_t, 2>{rows, words}, name, "weight_packed");
  set_group_floats(read_group_floats(scale, rows, t.groups(), name, "weight_scale"), {}, name, t);
  const auto middle = static_cast<uint8_t>(1 << (bits - 1));
  t.zeros.assign(static_cast<size_t>(rows * t.groups()), middle);
  if (zero_point != nullptr) {
    const std::array<int64_t, 2> expected = {row_words(rows, bits), t.groups()};
    expect_part(*zero_point, DType::kI32, expected, name, "weight_zero_point");
    unpack_zero_columns(*zero_point, t);
  }
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [&](uint8_t z) { return z == middle; });
  if (codes == Codes::kRead) {
    t.codes.resize(static_cast<size_t>(rows * columns));
    unpack_rows(packed.bytes.data(), rows, columns, bits, t.codes.data());
  }
  return t;
}

QuantizedTensor unpack_int_quantized(const TensorView& weight, const TensorView& scale, const TensorView* zero_point,
                                     int64_t group_size, const std::string& name, Codes codes) {
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (weight.shape.size() != 2 || weight.shape[0] < 1 || weight.shape[1] < 1 || weight.shape[0] > kLargest ||
      weight.shape[1] > kLargest) {
    throw FormatError(fmt::format("{}: weight: expected I8 [out, in], found {} {}", name, dtype_name(weight.dtype),
                                  shape_string(weight.shape)));
  }
  expect_part(weight, DType::kI8, weight.shape, name, "weight");
  QuantizedTensor t;
  t.bits = kIntBits;
  t.out_features = weight.shape[0];
  t.in_features = weight.shape[1];
  t.group_size = explicit_group_size(group_size, t.in_features, name);
  const bool of_weight = scale.elements() == 1;
  if (of_weight) t.group_size = t.in_features;
  TensorView scales = scale;
  if (of_weight) {
    scales.shape = {1, 1};
  } else if (scale.shape.size() == 1) {
    scales.shape.push_back(1);
  }
  set_group_floats(
      for_each_row(read_group_floats(scales, of_weight ? 1 : t.out_features, t.groups(), name, "weight_scale"),
                   of_weight, t.out_features),
      {}, name, t);
  t.zeros.assign(t.scales.size(), kIntMiddle);
  if (zero_point != nullptr) {
    expect_part(*zero_point, DType::kI8, scale.shape, name, "weight_zero_point");
    std::vector<uint8_t> zeros(zero_point->bytes.size());
    codes_of_bytes(zero_point->bytes.data(), static_cast<int64_t>(zeros.size()), zeros.data());
    t.zeros = for_each_row(std::move(zeros), of_weight, t.out_features);
  }
  t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z == kIntMiddle; });
  if (codes == Codes::kRead) {
    t.codes.resize(static_cast<size_t>(t.out_features * t.in_features));
    parallel_for(t.out_features, [&](int64_t n) {
      codes_of_bytes(weight.bytes.data() + n * t.in_features, t.in_features, t.codes.data() + n * t.in_features);
    });
  }
  return t;
}

}  // namespace metal_marlin
