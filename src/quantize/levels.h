// Grids whose levels are a table: FP4, NF4, INT4. One scale per group, w = levels[code] S; rounding to the nearest
// level, plainly or by GPTQ (arXiv 2210.17323) with static groups.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "quantize/rounding/gptq.h"

namespace metal_marlin {

// The values that codes stand for. A level is found by its place in the sorted list; `codes` has the code that is
// stored for it.
struct LevelTable {
  std::vector<float> levels;   // strictly ascending, 2 to 16, the first < 0 < the last
  std::vector<uint8_t> codes;  // [levels] each once, below 16
  std::vector<float> values;   // [16] by code; codes that no level has (FP4's -0) are 0

  int64_t size() const noexcept { return static_cast<int64_t>(levels.size()); }
};

// +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}: E2M1 of the OCP Microscaling specification; code = 8 sign + magnitude. -0 is never
// written.
const LevelTable& fp4_levels();
// The 16 levels of QLoRA (arXiv 2305.14314, appendix E): quantiles of the normal distribution in -1..1; code = place.
const LevelTable& nf4_levels();
// -8..7; code = level + 8.
const LevelTable& int4_levels();

enum class LevelRange : uint8_t {
  kMaxabs,   // the least S by which no weight lies beyond the ends of the table
  kMse,      // S of kMaxabs times 0.5, 0.525 .. 1.5 (41): least sum of squared errors, the first of equals
  kDescent,  // from kMse's: S = sum(w l) / sum(l^2) for the levels l that w was rounded to, and again, while it gets
             // better
  kHessian,  // the candidates of kMse, least e H_gg e^T, e the group's errors and H_gg its block of the Hessian;
             // kMse's where that is zero. group_size / 2 multiply-adds per weight and candidate
};

struct LevelScales {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;        // explicit
  std::vector<uint16_t> scales;  // float16 bits [out, groups], normal, finite, positive
  int64_t clamped = 0;           // groups whose scale float16 cannot hold

  int64_t groups() const noexcept { return group_size == 0 ? 0 : (in_features + group_size - 1) / group_size; }
};

// weight [out, in]; group_size -1: one group per row; the last group may be short. A group of zeros gets the least
// scale. hessian [in, in] is read by kHessian alone (upper half). ArgumentError: shapes, group_size; NumericError: NaN
// or Inf.
LevelScales level_scales(const Matrix& weight, const LevelTable& table, int64_t group_size, LevelRange range,
                         const Matrix* hessian = nullptr);

struct LevelTensor {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;
  std::vector<uint8_t> codes;    // [out, in]
  std::vector<uint16_t> scales;  // float16 bits [out, groups]

  int64_t groups() const noexcept { return group_size == 0 ? 0 : (in_features + group_size - 1) / group_size; }
};

// Returns the place of the level nearest to x, which must be finite. Halfway between two levels it is the one whose
// code is even, as IEEE 754 rounds E2M1.
int64_t nearest_level(const LevelTable& table, float x) noexcept;

// Rounds each w / S to the nearest level, in float32.
LevelTensor round_to_levels(const Matrix& weight, const LevelScales& scales, const LevelTable& table);
// for j = 0, 1, ...: k = order[j]; w'_k = S nearest(w_k / S); err = (w_k - w'_k) / U_jj; w_order[l] -= err U_jl for all
// l > j. In float32, out * in^2 / 2 multiply-adds. ArgumentError when shapes disagree; NumericError: NaN or Inf in
// weight.
LevelTensor gptq_to_levels(const Matrix& weight, const GptqFactor& factor, const LevelScales& scales,
                           const LevelTable& table);

// float32 [out, in]: values[code] * S.
Matrix dequantize(const LevelTensor& tensor, const LevelTable& table);

}  // namespace metal_marlin
