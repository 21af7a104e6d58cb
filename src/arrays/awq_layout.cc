#include "arrays/awq_layout.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "arrays/array_input.h"
#include "core/machine.h"
#include "core/threads.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRowTile = 64;

}  // namespace

int64_t padded_in_features(int64_t in_features, int64_t group_size) {
  const int64_t unit = group_size % kFp4PerU32 == 0 ? group_size : std::lcm(group_size, int64_t{kFp4PerU32});
  if (in_features > std::numeric_limits<int64_t>::max() - unit) {
    throw ArgumentError(fmt::format("group_size: {} is too large for {} inputs", group_size, in_features));
  }
  return (in_features + unit - 1) / unit * unit;
}

NativeArrays native_arrays(QuantizedTensor t) {
  const int64_t kept_groups = t.groups();
  const int64_t padded = padded_in_features(t.in_features, t.group_size);
  if (padded != t.in_features) {
    QuantizedTensor wide{t.out_features, padded, t.group_size, t.bits, t.symmetric, {}, {}, {}};
    const auto n = static_cast<size_t>(t.out_features);
    const auto k = static_cast<size_t>(t.in_features);
    const auto groups = static_cast<size_t>(kept_groups);
    const auto wide_groups = static_cast<size_t>(wide.groups());
    wide.codes.resize(n * static_cast<size_t>(padded));
    wide.scales.assign(n * wide_groups, 0);
    wide.zeros.assign(n * wide_groups, 8);
    for (size_t r = 0; r < n; ++r) {
      std::copy_n(t.scales.begin() + static_cast<int64_t>(r * groups), groups,
                  wide.scales.begin() + static_cast<int64_t>(r * wide_groups));
      std::copy_n(t.zeros.begin() + static_cast<int64_t>(r * groups), groups,
                  wide.zeros.begin() + static_cast<int64_t>(r * wide_groups));
      uint8_t* to = wide.codes.data() + r * static_cast<size_t>(padded);
      std::copy_n(t.codes.data() + r * k, k, to);
      for (auto c = static_cast<int64_t>(k); c < padded; ++c) {
        to[c] = wide.zeros[r * wide_groups + static_cast<size_t>(c / t.group_size)];
      }
    }
    t = std::move(wide);
  }
  const PackedTensor packed = pack_native(t, "weights");
  const auto part = [&](const char* name, ElementType type, int64_t rows) {
    return copy_array(type, {rows, t.out_features}, packed.find(name)->bytes.data());
  };
  return {part("weight", ElementType::kU32, padded / kFp4PerU32), part("weight.scales", ElementType::kF16, kept_groups),
          part("weight.zeros", ElementType::kF16, kept_groups)};
}

void multiply_columns(Matrix& weight, std::span<const float> scale) {
  parallel_for((weight.rows() + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t r = tile * kRowTile; r < std::min((tile + 1) * kRowTile, weight.rows()); ++r) {
      const std::span<float> row = weight.row(r);
      for (size_t c = 0; c < row.size(); ++c) row[c] *= scale[c];
    }
  });
}

ErrorSums unscaled_error(const Matrix& weight, const QuantizedTensor& quantized, std::span<const float> scale) {
  const int64_t tiles = (weight.rows() + kRowTile - 1) / kRowTile;
  std::vector<ErrorSums> parts(static_cast<size_t>(tiles));
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t first = tile * kRowTile;
    const int64_t rows = std::min(kRowTile, weight.rows() - first);
    std::vector<float> values(static_cast<size_t>(rows * weight.cols()));
    dequantize_rows(quantized, first, rows, values.data());
    ErrorSums& part = parts[static_cast<size_t>(tile)];
    for (int64_t r = 0; r < rows; ++r) {
      const float* w = weight.row(first + r).data();
      const float* v = values.data() + r * weight.cols();
      double error = 0;
      double size = 0;
      for (size_t c = 0; c < scale.size(); ++c) {
        const float e = (v[c] - w[c]) / scale[c];
        const float u = w[c] / scale[c];
        error += static_cast<double>(e) * e;
        size += static_cast<double>(u) * u;
      }
      part.error += error;
      part.weight += size;
    }
  });
  ErrorSums sums;
  for (const ErrorSums& part : parts) {
    sums.error += part.error;
    sums.weight += part.weight;
  }
  return sums;
}

Grid grid_of(const std::string& scheme, int64_t group_size) {
  if (scheme != "sym" && scheme != "asym") {
    throw ArgumentError(fmt::format("scheme: expected \"sym\" or \"asym\", found \"{}\"", scheme));
  }
  return {kAwqQuantBits, scheme == "sym", group_size};
}

void report_stage(const Observer& observer, const char* stage, int64_t done, int64_t total) {
  if (!observer.on_progress) return;
  Progress progress;
  progress.stage = stage;
  progress.done = done;
  progress.total = total;
  progress.resident_bytes = resident_bytes();
  if (!observer.on_progress(progress)) throw Interrupted("stopped by the caller");
}

}  // namespace metal_marlin
