// GPTQ (arXiv 2210.17323) with static groups. Columns are rounded one by one. The columns that are not yet rounded make
// up for each column's error, weighted by the inverse of the input's Gram matrix.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/lanes.h"
#include "quantize/ranges.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {

// Returns the codes for the given static ranges. The group of column k is k / group_size whatever the order.
//   for j = 0, 1, ...: k = order[j]; c = clamp(rint((w_k - m) / S) + zero, 0, levels - 1); err = (w_k - (c - zero) S -
//   m) / U_jj; w_order[l] -= err U_jl for all l > j.
// Rows in float32, out * in^2 / 2 multiply-adds. ArgumentError when shapes disagree; NumericError: NaN or Inf in
// weight.
QuantizedTensor quantize_gptq(const Matrix& weight, const GptqFactor& factor, const GroupRanges& ranges,
                              const Grid& grid);

// What gptq_codes() knows of a grid. value = (code - zero) S + m, code = 0 .. top; with levels value = levels[code] S.
struct CodeGrid {
  int64_t group_size = 0;  // explicit
  float top = 0;           // not read with levels
  bool minimum = false;
  const LevelSteps* levels = nullptr;
};
// The ranges of kLaneRows rows, [groups][kLaneRows], as float32 numbers that need not be stored as such. S is not 0.
struct TileRanges {
  std::vector<float> scales;  // ones before they are filled in
  std::vector<float> zeros;   // zeros
  std::vector<float> minima;  // zeros; empty for a grid without
};
// Fills in the ranges of the rows row .. row + rows - 1. It is called from several threads at once.
using FillRanges = std::function<void(int64_t row, int64_t rows, TileRanges& ranges)>;
// The loop of quantize_gptq() for ranges of any kind: writes codes [out, in]. The arguments must agree.
void gptq_codes(const Matrix& weight, const GptqFactor& factor, const CodeGrid& grid, const FillRanges& fill,
                uint8_t* codes);

// Peak resident bytes of make_gptq_factor followed by quantize_gptq of one linear, beyond gram and weight themselves,
// for in_features inputs, out_features outputs and threads() threads as set now. Counts only the touched halves of the
// two triangles, a little over 6 in^2 bytes; address space is reserved for 12 in^2.
uint64_t gptq_memory_bytes(int64_t in_features, int64_t out_features);

}  // namespace metal_marlin
