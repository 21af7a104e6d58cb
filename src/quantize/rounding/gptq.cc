#include "quantize/rounding/gptq.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/counted.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/candidates.h"
#include "quantize/lanes.h"
#include "quantize/rounding/gptq_tiles.h"

namespace metal_marlin {

void gptq_codes(const Matrix& weight, const GptqFactor& factor, const CodeGrid& grid, const FillRanges& fill,
                uint8_t* out) {
  const int64_t k = weight.cols();
  const int64_t groups = (k + grid.group_size - 1) / grid.group_size;
  gptq_tiles(weight, factor, out, [&](int64_t row, int64_t rows, float* w) {
    TileRanges ranges;
    ranges.scales.assign(static_cast<size_t>(groups * kLaneRows), 1.0f);
    ranges.zeros.assign(ranges.scales.size(), 0.0f);
    if (grid.minimum) ranges.minima.assign(ranges.scales.size(), 0.0f);
    fill(row, rows, ranges);
    for (int64_t r = 0; r < rows; ++r) {
      // Values are rounded, and changed by the errors of other columns, relative to the group's minimum.
      for (int64_t j = 0; grid.minimum && j < k; ++j) {
        const int64_t g = factor.order[static_cast<size_t>(j)] / grid.group_size;
        w[j * kLaneRows + r] -= ranges.minima[static_cast<size_t>(g * kLaneRows + r)];
      }
    }
    return [&, ranges = std::move(ranges)](int64_t start, int64_t width, const float* block, uint8_t* codes,
                                           float* errors) {
      std::array<float, kGptqBlock * kGptqBlock> u;
      std::array<float, kGptqBlock> inverse_pivot;
      std::array<const float*, kGptqBlock> block_scales;
      std::array<const float*, kGptqBlock> block_zeros;
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < j; ++i) u[static_cast<size_t>(j * width + i)] = factor.upper(start + i, start + j);
        inverse_pivot[static_cast<size_t>(j)] = 1.0f / factor.upper(start + j, start + j);
        const int64_t g = factor.order[static_cast<size_t>(start + j)] / grid.group_size;
        block_scales[static_cast<size_t>(j)] = ranges.scales.data() + g * kLaneRows;
        block_zeros[static_cast<size_t>(j)] = ranges.zeros.data() + g * kLaneRows;
      }
      if (grid.levels != nullptr) {
        gptq_block_levels(block, width, u.data(), inverse_pivot.data(), block_scales.data(), *grid.levels, codes,
                          errors);
      } else {
        gptq_block(block, width, u.data(), inverse_pivot.data(), block_scales.data(), block_zeros.data(), grid.top,
                   codes, errors);
      }
    };
  });
}

QuantizedTensor quantize_gptq(const Matrix& weight, const GptqFactor& factor, const GroupRanges& ranges,
                              const Grid& grid) {
  require_arguments(weight, grid, nullptr);
  require_factor(factor, weight.cols());
  require_ranges(ranges, weight, grid);
  QuantizedTensor out{weight.rows(), weight.cols(), ranges.group_size, grid.bits,      grid.symmetric, {},
                      ranges.scales, ranges.zeros,  ranges.minima,     grid.scale_type};
  out.codes.resize(static_cast<size_t>(weight.size()));
  const int64_t groups = ranges.groups();
  const CodeGrid codes{ranges.group_size, static_cast<float>(grid.levels() - 1), grid.minimum};
  const auto fill = [&](int64_t row, int64_t rows, TileRanges& tile) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const auto from = static_cast<size_t>((row + r) * groups + g);
        const auto to = static_cast<size_t>(g * kLaneRows + r);
        tile.scales[to] = decode_scale(ranges.scales[from], grid.scale_type);
        tile.zeros[to] = ranges.zeros[from];
        if (grid.minimum) tile.minima[to] = ranges.minimum(from, grid);
      }
    }
  };
  gptq_codes(weight, factor, codes, fill, out.codes.data());
  return out;
}

uint64_t gptq_memory_bytes(int64_t in_features, int64_t out_features) {
  const auto k = static_cast<uint64_t>(in_features);
  const auto n = static_cast<uint64_t>(out_features);
  // About half of a triangle's pages are touched, and on average another half page per row at its edge.
  const auto triangle = [k](uint64_t element) { return k * (k * element / 2 + 2048); };
  constexpr uint64_t kPanels = 2 * 128 * sizeof(double);     // of invert_lower, per column
  constexpr uint64_t kTile = 2 * kLaneRows * sizeof(float);  // of quantize_gptq, per column and thread
  const uint64_t factorizing = triangle(sizeof(double)) + std::max(triangle(sizeof(float)), k * kPanels);
  const uint64_t rounding = triangle(sizeof(float)) + n * k + static_cast<uint64_t>(threads()) * k * kTile;
  return std::max(factorizing, rounding);
}

}  // namespace metal_marlin
