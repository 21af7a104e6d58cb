#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "pack/words_along_in.h"

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
    throw ArgumentError(fmt::format("meta: quant_type: expected \"awq_int4\", found \"{}\"", meta.quant_type));
  }
  if (meta.code_offset != 8 && meta.code_offset != 7) {
    throw ArgumentError(
        fmt::format("meta: code_offset: expected 8, or 7 for arrays of the earlier numpy implementation, found {}",
                    meta.code_offset));
  }
  if (meta.in_features < 1 || meta.out_features < 1 || meta.group_size < 1) {
    throw ArgumentError(
        fmt::format("meta: expected positive in_features, out_features and group_size, found {}, {} and {}",
                    meta.in_features, meta.out_features, meta.group_size));
  }
  expect_type(packed, "packed", ElementType::kU32);
  expect_shape(packed, "packed", {-1, meta.out_features}, "[padded K / 8, N]");
  Layout layout{meta.in_features, packed.shape[0] * kFp4PerU32, meta.out_features, 0};
  const int64_t padded = padded_in_features(meta.in_features, meta.group_size);
  if (meta.padded_in_features != 0 && meta.padded_in_features != padded) {
    throw ArgumentError(
        fmt::format("meta: padded_in_features: expected {} for in_features {} and group_size {}, found {}", padded,
                    meta.in_features, meta.group_size, meta.padded_in_features));
  }
  if (layout.padded != padded) {
    throw ArgumentError(fmt::format("packed: expected {} for in_features {} and group_size {} of meta, found {}",
                                    counted(padded / kFp4PerU32, "row"), meta.in_features, meta.group_size,
                                    packed.shape[0]));
  }
  layout.groups = (meta.in_features + meta.group_size - 1) / meta.group_size;
  return layout;
}

// Makes a dense copy where the caller's words have strides.
std::vector<uint32_t> words_of(const ArrayView& packed) {
  const std::vector<int64_t> strides = strides_of(packed);
  const int64_t rows = packed.shape[0];
  const int64_t columns = packed.shape[1];
  std::vector<uint32_t> words(static_cast<size_t>(rows * columns));
  const auto* in = static_cast<const uint32_t*>(packed.data);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      words[static_cast<size_t>(r * columns + c)] = in[r * strides[0] + c * strides[1]];
  }
  return words;
}

void check_zeros(const Matrix& zeros) {
  for (int64_t g = 0; g < zeros.rows(); ++g) {
    for (int64_t n = 0; n < zeros.cols(); ++n) {
      const float z = zeros(g, n);
      if (!(z >= -8 && z <= 7) || z != std::nearbyint(z)) {
        throw ArgumentError(fmt::format("zeros: expected integers in -8..7, found {} at [{}, {}]", z, g, n));
      }
    }
  }
}

void store_row(const std::vector<float>& values, ElementType type, int64_t row, Array& out) {
  const auto count = static_cast<int64_t>(values.size());
  const KernelTable& k = kernels();
  switch (type) {
    case ElementType::kF16:
      k.f32_to_f16(values.data(), count, out.as<uint16_t>() + row * count);
      return;
    case ElementType::kBF16:
      k.f32_to_bf16(values.data(), count, out.as<uint16_t>() + row * count);
      return;
    case ElementType::kF64:
      std::copy(values.begin(), values.end(), out.as<double>() + row * count);
      return;
    default:
      std::copy(values.begin(), values.end(), out.as<float>() + row * count);
      return;
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
  const int64_t padded = padded_in_features(k, group_size);
  const int64_t groups = (k + group_size - 1) / group_size;
  for (const auto& [array, name] : {std::pair{&scales, "scales"}, std::pair{&zeros, "zeros"}}) {
    expect_float(*array, name);
    expect_shape(*array, name, {groups, n}, "[G, N]");
  }
  load_matrix(scales, "scales");
  const Matrix zero = load_matrix(zeros, "zeros");
  check_zeros(zero);
  const std::vector<uint8_t> codes = load_bytes_transposed(weights);
  std::vector<uint8_t> stored(static_cast<size_t>(padded * n));
  parallel_for((n + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t column = tile * kRowTile; column < std::min((tile + 1) * kRowTile, n); ++column) {
      for (int64_t row = 0; row < k; ++row) {
        const auto code = static_cast<int8_t>(codes[static_cast<size_t>(column * k + row)]);
        if (code < -8 || code > 7) {
          throw ArgumentError(fmt::format("weights: expected codes in -8..7, found {} at [{}, {}]", code, row, column));
        }
        stored[static_cast<size_t>(column * padded + row)] = static_cast<uint8_t>(code + 8);
      }
      // The code of weight 0.
      const auto pad = static_cast<uint8_t>(zero(groups - 1, column) + 8);
      std::fill(stored.begin() + column * padded + k, stored.begin() + (column + 1) * padded, pad);
    }
  });
  PackedAWQ result;
  result.packed = Array(ElementType::kU32, {padded / kFp4PerU32, n});
  pack_along_in(stored.data(), n, padded, kAwqQuantBits, result.packed.bytes.data());
  result.meta.in_features = k;
  result.meta.out_features = n;
  result.meta.group_size = group_size;
  result.meta.padded_in_features = padded;
  return result;
} catch (...) {
  rethrow_as_error("pack_awq_weights");
}

Array unpack_awq_weights(const ArrayView& packed, const AWQMeta& meta) try {
  const ThreadCount thread_count;
  const Layout layout = check_layout(packed, meta);
  const std::vector<uint32_t> words = words_of(packed);
  Array codes(ElementType::kI8, {layout.in_features, layout.out_features});
  parallel_for((layout.in_features + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t k = tile * kRowTile; k < std::min((tile + 1) * kRowTile, layout.in_features); ++k) {
      const uint32_t* word = words.data() + k / kFp4PerU32 * layout.out_features;
      const auto shift = static_cast<unsigned>(k % kFp4PerU32 * kAwqQuantBits);
      auto* out = codes.as<int8_t>() + k * layout.out_features;
      for (int64_t n = 0; n < layout.out_features; ++n) {
        out[n] = static_cast<int8_t>(static_cast<int>(word[n] >> shift & 15u) - meta.code_offset);
      }
    }
  });
  return codes;
} catch (...) {
  rethrow_as_error("unpack_awq_weights");
}

Array awq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros,
                     const std::optional<ArrayView>& q_scale, const AWQMeta& meta, ElementType type) try {
  const ThreadCount thread_count;
  const Layout layout = check_layout(packed, meta);
  const bool earlier = meta.code_offset == 7;  // the numpy implementation before this one: AWQMeta::code_offset
  if (type != ElementType::kF16 && type != ElementType::kBF16 && type != ElementType::kF32 &&
      type != ElementType::kF64) {
    throw ArgumentError(
        fmt::format("weights_dtype: expected float16, bfloat16, float32 or float64, found {}", element_name(type)));
  }
  for (const auto& [array, name] : {std::pair{&scales, "scales"}, std::pair{&zeros, "zeros"}}) {
    expect_float(*array, name);
    expect_shape(*array, name, {layout.groups, layout.out_features}, "[G, N]");
  }
  const Matrix scale = load_matrix(scales, "scales");
  const Matrix zero = load_matrix(zeros, "zeros");
  if (!earlier) check_zeros(zero);
  std::vector<float> divisor(static_cast<size_t>(earlier ? layout.out_features : layout.in_features), 1.0f);
  if (q_scale) {
    expect_float(*q_scale, "q_scale");
    if (!earlier && q_scale->shape.size() == 1 && q_scale->shape[0] == layout.out_features &&
        layout.out_features != layout.in_features) {
      throw ArgumentError(
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
  const std::vector<uint32_t> words = words_of(packed);
  Array out(type, {layout.in_features, layout.out_features});
  const auto limit = type == ElementType::kF16 ? 65520.0f : std::numeric_limits<float>::infinity();
  parallel_for((layout.in_features + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    std::vector<float> row(static_cast<size_t>(layout.out_features));
    for (int64_t k = tile * kRowTile; k < std::min((tile + 1) * kRowTile, layout.in_features); ++k) {
      const uint32_t* word = words.data() + k / kFp4PerU32 * layout.out_features;
      const auto shift = static_cast<unsigned>(k % kFp4PerU32 * kAwqQuantBits);
      const float* s = scale.row(k / meta.group_size).data();
      const float* z = zero.row(k / meta.group_size).data();
      float largest = 0;
      for (size_t n = 0; n < row.size(); ++n) {
        const float code = static_cast<float>(static_cast<int>(word[n] >> shift & 15u) - meta.code_offset);
        row[n] = earlier ? code * s[n] / divisor[n] + z[n] : (code - z[n]) * s[n] / divisor[static_cast<size_t>(k)];
        largest = std::max(largest, std::fabs(row[n]));
      }
      if (!(largest < limit)) {
        throw NumericError(
            fmt::format("weights_dtype: expected weights that {} can hold, found {} in input channel {}; use float32",
                        element_name(type), largest, k));
      }
      store_row(row, type, k, out);
    }
  });
  return out;
} catch (...) {
  rethrow_as_error("awq_dequantize");
}

}  // namespace metal_marlin
