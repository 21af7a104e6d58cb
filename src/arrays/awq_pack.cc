#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "pack/bits/words_along_in.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRowTile = 64;  // input channels

// Checks the sizes of a result's arrays against its meta.
struct Layout {
  int64_t in_features;
  int64_t padded;
  int64_t out_features;
  int64_t groups;
};

Layout check_layout(const ArrayView& packed, const AWQMeta& meta) {
  if (meta.quant_type != "awq_int4") {
    throw ArgumentError("meta", fmt::format("meta: quant_type: expected \"awq_int4\", found \"{}\"", meta.quant_type));
  }
  if (meta.code_offset != 8 && meta.code_offset != 7) {
    throw ArgumentError(
        "meta",
        fmt::format("meta: code_offset: expected 8, or 7 for arrays of the earlier numpy implementation, found {}",
                    meta.code_offset));
  }
  if (meta.in_features < 1 || meta.out_features < 1 || meta.group_size < 1) {
    throw ArgumentError(
        "meta", fmt::format("meta: expected positive in_features, out_features and group_size, found {}, {} and {}",
                            meta.in_features, meta.out_features, meta.group_size));
  }
  expect_type(packed, "packed", ElementType::kU32);
  expect_shape(packed, "packed", {-1, meta.out_features}, "[padded K / 8, N]");
  Layout layout{meta.in_features, packed.shape[0] * kFp4PerU32, meta.out_features, 0};
  const int64_t padded = padded_in_features(meta.in_features, meta.group_size);
  if (meta.padded_in_features != 0 && meta.padded_in_features != padded) {
    throw ArgumentError(
        "meta", fmt::format("meta: padded_in_features: expected {} for in_features {} and group_size {}, found {}",
                            padded, meta.in_features, meta.group_size, meta.padded_in_features));
  }
  if (layout.padded != padded) {
    throw ArgumentError(
        "packed", fmt::format("packed: expected {} for in_features {} and group_size {} of meta, found {}",
                              counted(padded / kFp4PerU32, "row"), meta.in_features, meta.group_size, packed.shape[0]));
  }
  layout.groups = (meta.in_features + meta.group_size - 1) / meta.group_size;
  return layout;
}

// The codes of all rows, [padded, out_features].
std::vector<uint8_t> codes_of(const ArrayView& packed, const Layout& layout) {
  const std::vector<uint32_t> words = load_words(packed);
  std::vector<uint8_t> codes(static_cast<size_t>(layout.padded * layout.out_features));
  unpack_along_in(reinterpret_cast<const std::byte*>(words.data()), layout.out_features, layout.padded, kAwqQuantBits,
                  codes.data());
  std::vector<uint8_t> rows(codes.size());
  transpose_array(codes.data(), layout.out_features, layout.padded, rows.data());
  return rows;
}

// zeros [N, G].
void check_zeros(const Matrix& zeros) {
  for (int64_t n = 0; n < zeros.rows(); ++n) {
    for (int64_t g = 0; g < zeros.cols(); ++g) {
      const float z = zeros(n, g);
      if (!(z >= -8 && z <= 7) || z != std::nearbyint(z)) {
        throw ArgumentError("zeros", fmt::format("zeros: expected integers in -8..7, found {} at [{}, {}]", z, g, n));
      }
    }
  }
}

}  // namespace

PackedAWQ pack_awq_weights(const ArrayView& weights, const ArrayView& scales, const ArrayView& zeros,
                           int64_t group_size) try {
  const ThreadCount thread_count;
  expect_type(weights, "weights", ElementType::kI8);
  expect_shape(weights, "weights", {-1, -1}, "[K, N]");
  expect_group_size(group_size);
  const int64_t k = weights.shape[0];
  const int64_t n = weights.shape[1];
  const int64_t groups = (k + group_size - 1) / group_size;
  for (const auto& [array, name] : {std::pair{&scales, "scales"}, std::pair{&zeros, "zeros"}}) {
    expect_float(*array, name);
    expect_shape(*array, name, {groups, n}, "[G, N]");
  }
  load_matrix(scales, "scales");
  const Matrix zero = load_transposed(zeros, "zeros");
  check_zeros(zero);
  QuantizedTensor t{n, k, group_size, kAwqQuantBits, false, load_bytes_transposed(weights), {}, {}};
  for (size_t i = 0; i < t.codes.size(); ++i) {
    const auto code = static_cast<int8_t>(t.codes[i]);
    if (code < -8 || code > 7) {
      const auto at = static_cast<int64_t>(i);
      throw ArgumentError("weights",
                          fmt::format("weights: expected codes in -8..7, found {} at [{}, {}]", code, at % k, at / k));
    }
    t.codes[i] = static_cast<uint8_t>(code + 8);
  }
  for (const float z : zero.values()) t.zeros.push_back(static_cast<uint8_t>(z + 8));
  t.scales.assign(t.zeros.size(), f32_to_f16(1));  // the words hold none
  PackedAWQ result;
  result.meta = meta_of(t, "sym", {});
  result.meta.weight_error.reset();  // of which weights is not known
  result.packed = native_arrays(std::move(t)).words;
  return result;
} catch (...) {
  rethrow_as_error("pack_awq_weights");
}

Array unpack_awq_weights(const ArrayView& packed, const AWQMeta& meta) try {
  const ThreadCount thread_count;
  const Layout layout = check_layout(packed, meta);
  const std::vector<uint8_t> stored = codes_of(packed, layout);
  Array codes(ElementType::kI8, {layout.in_features, layout.out_features});
  std::transform(stored.begin(), stored.begin() + codes.elements(), codes.as<int8_t>(),
                 [&](uint8_t code) { return static_cast<int8_t>(code - meta.code_offset); });
  return codes;
} catch (...) {
  rethrow_as_error("unpack_awq_weights");
}

Array awq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros,
                     const std::optional<ArrayView>& q_scale, const AWQMeta& meta, ElementType type) try {
  const ThreadCount thread_count;
  const Layout layout = check_layout(packed, meta);
  const bool earlier = meta.code_offset == 7;  // the numpy implementation before this one: AWQMeta::code_offset
  for (const auto& [array, name] : {std::pair{&scales, "scales"}, std::pair{&zeros, "zeros"}}) {
    expect_float(*array, name);
    expect_shape(*array, name, {layout.groups, layout.out_features}, "[G, N]");
  }
  const Matrix scale = load_matrix(scales, "scales");
  const Matrix zero = load_matrix(zeros, "zeros");
  if (!earlier) check_zeros(load_transposed(zeros, "zeros"));
  std::vector<float> divisor(static_cast<size_t>(earlier ? layout.out_features : layout.in_features), 1.0f);
  if (q_scale) {
    expect_float(*q_scale, "q_scale");
    if (!earlier && q_scale->shape.size() == 1 && q_scale->shape[0] == layout.out_features &&
        layout.out_features != layout.in_features) {
      throw ArgumentError(
          "q_scale",
          fmt::format("q_scale: expected shape [K] = [{}], one factor per input channel, found [{}], as many as output "
                      "channels; for arrays of the "
                      "earlier numpy implementation (q_scale per output channel) set code_offset of meta to 7",
                      layout.in_features, layout.out_features));
    }
    expect_shape(*q_scale, "q_scale", {static_cast<int64_t>(divisor.size())}, earlier ? "[N]" : "[K]");
    divisor = load_vector(*q_scale, "q_scale");
    for (size_t i = 0; i < divisor.size(); ++i) {
      if (!(divisor[i] > 0))
        throw NumericError(fmt::format("q_scale: expected values above 0, found {} at [{}]", divisor[i], i));
    }
  }
  const std::vector<uint8_t> codes = codes_of(packed, layout);
  Matrix values(layout.in_features, layout.out_features);
  parallel_for((layout.in_features + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t k = tile * kRowTile; k < std::min((tile + 1) * kRowTile, layout.in_features); ++k) {
      const uint8_t* stored = codes.data() + k * layout.out_features;
      const float* s = scale.row(k / meta.group_size).data();
      const float* z = zero.row(k / meta.group_size).data();
      const std::span<float> row = values.row(k);
      for (size_t n = 0; n < row.size(); ++n) {
        const auto code = static_cast<float>(stored[n] - meta.code_offset);
        row[n] = earlier ? code * s[n] / divisor[n] + z[n] : (code - z[n]) * s[n] / divisor[static_cast<size_t>(k)];
      }
    }
  });
  return to_type(values, type, "weights_dtype", "weights_dtype");
} catch (...) {
  rethrow_as_error("awq_dequantize");
}

}  // namespace metal_marlin
