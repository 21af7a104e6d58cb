// The loop of GPTQ over tiles of rows and blocks of columns, for every kind of grid: the caller rounds within a block.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {

// Columns of a block; between blocks one product applies the errors of all columns before.
inline constexpr int64_t kGptqBlock = 64;

// Writes codes [out, in]. For each tile of up to kLaneRows rows prepare(row, rows, w) may change the tile w
// [in][kLaneRows], in which place j is column factor.order[j], and returns the function that rounds a block,
//   round(start, width, w, codes, errors)
// of the places start .. start + width - 1, on which all places before `start` have acted. w, codes and errors are
// [width][kLaneRows]; an error is that of the column over U_jj. Several threads do tiles at once.
template <typename Prepare>
void gptq_tiles(const Matrix& weight, const GptqFactor& factor, uint8_t* codes, const Prepare& prepare) {
  const int64_t k = weight.cols();
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    const int64_t row = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - row);
    std::vector<float> w(static_cast<size_t>(k * kLaneRows));
    std::vector<float> err(w.size());
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = weight.row(row + r).data();
      for (int64_t j = 0; j < k; ++j) {
        w[static_cast<size_t>(j * kLaneRows + r)] = from[factor.order[static_cast<size_t>(j)]];
      }
    }
    auto round = prepare(row, rows, w.data());
    std::array<uint8_t, kGptqBlock * kLaneRows> rounded;
    for (int64_t start = 0; start < k; start += kGptqBlock) {
      const int64_t width = std::min(kGptqBlock, k - start);
      float* block = w.data() + start * kLaneRows;
      if (start > 0) {
        sgemm_tile(true, false, width, kLaneRows, start, -1.0f, factor.upper.data() + start, k, err.data(), kLaneRows,
                   1.0f, block, kLaneRows);
      }
      round(start, width, block, rounded.data(), err.data() + start * kLaneRows);
      for (int64_t r = 0; r < rows; ++r) {
        uint8_t* to = codes + (row + r) * k;
        for (int64_t j = 0; j < width; ++j) {
          to[factor.order[static_cast<size_t>(start + j)]] = rounded[static_cast<size_t>(j * kLaneRows + r)];
        }
      }
    }
  });
}

}  // namespace metal_marlin
