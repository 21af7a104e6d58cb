// The SIMD loops of this folder, dispatched at run time. Two layouts: a span of consecutive weights of one row, and a
// tile of kLaneRows rows stored column by column ([column][row]), in which each SIMD lane is a row.
#pragma once

#include <cstdint>

namespace metal_marlin {

inline constexpr int64_t kLaneRows = 64;

// Returns the first index whose value is NaN or Inf, or -1.
int64_t first_not_finite(const float* values, int64_t count) noexcept;
void min_max(const float* values, int64_t count, float* min, float* max) noexcept;  // count >= 1
// codes[i] = clamp(rint((w[i] - minimum) / scale) + zero, 0, top), ties to even.
void round_span(const float* w, int64_t count, float scale, float zero, float minimum, float top,
                uint8_t* codes) noexcept;
// error[i] = ((code - zero) scale + minimum) unscale[i] - reference[i], code of w[i] as above.
void round_error_span(const float* w, const float* reference, const float* unscale, int64_t count, float scale,
                      float zero, float minimum, float top, float* error) noexcept;

// Per row of a tile w [count][kLaneRows] rounded with scale[row] and zero[row]: loss[row] = e G e^T. `packed`: G as
// pack_quadratic leaves it, or null for the identity. count % 4 == 0 when packed is given (rows of zeros pad).
// scratch: count * kLaneRows floats. w / scale is formed as w * (1 / scale) here: ties may go either way.
void quadratic_losses(const float* w, const float* packed, int64_t count, const float* scale, const float* zero,
                      float top, float* scratch, float* loss) noexcept;
// The same with a diagonal G, whose entries are `diagonal` [count].
void diagonal_losses(const float* w, const float* diagonal, int64_t count, const float* scale, const float* zero,
                     float top, float* loss) noexcept;
// Packs the upper half of the count x count matrix at `gram`: for each four columns k .. k + 3 the rows l = 0 .. k + 3,
// four values each, 2 G_lk above the diagonal, G_kk on it, 0 below. packed: quadratic_floats(count).
void pack_quadratic(const float* gram, int64_t ldg, int64_t count, float* packed) noexcept;
constexpr int64_t quadratic_floats(int64_t count) noexcept {
  const int64_t blocks = (count + 3) / 4;
  return 8 * blocks * (blocks + 1);
}

// GPTQ within a block of `count` columns of a tile w [count][kLaneRows], on which all columns before the block have
// already acted: for j = 0 .. count - 1: w_j -= sum over i < j of err_i u[j * count + i]; codes; err_j = (w_j - (c -
// zero) scale) inverse_pivot[j]. scales[j], zeros[j]: the kLaneRows values of column j's group.
void gptq_block(const float* w, int64_t count, const float* u, const float* inverse_pivot, const float* const* scales,
                const float* const* zeros, float top, uint8_t* codes, float* err) noexcept;

// Coordinate descent within a block of `count` columns: for j = 0 .. count - 1: R_j = residual_j - sum over i < j of
// step_i h[j * count + i]; code' = clamp(rint(code + R_j inverse_diagonal[j] / scale), 0, top); step_j = (code' - code)
// scale. All [count][kLaneRows]; codes are changed in place, residual is only read.
void descend_block(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                   const float* const* scales, float top, float* codes, float* step) noexcept;

// 16 ascending levels and the middles between neighbours. A value on a middle goes to the lower level.
struct LevelSteps {
  float levels[16];
  float middles[15];
};
// gptq_block() with the values levels[code] scale.
void gptq_block_levels(const float* w, int64_t count, const float* u, const float* inverse_pivot,
                       const float* const* scales, const LevelSteps& steps, uint8_t* codes, float* err) noexcept;
// descend_block() with the values level scale; `levels` has the levels themselves, not their codes.
void descend_block_levels(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                          const float* const* scales, const LevelSteps& steps, float* levels, float* step) noexcept;

}  // namespace metal_marlin
