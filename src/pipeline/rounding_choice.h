// How far the rounding of an input's linears may go, judged on calibration tokens that it has not seen: error feedback
// and refinement fit the Gram matrix of the calibration text, and with few tokens they fit its noise.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/gptq.h"
#include "quantize/group_range.h"

namespace metal_marlin {

// Of one linear. The errors are relative output errors on the held-back tokens (LinearErrors::output_error), of `rows`
// rows.
struct RoundingChoice {
  double damping = 0;    // the same for all linears of an input
  bool feedback = true;  // GPTQ; else rounding to nearest, and then no refinement
  bool refine = true;
  double nearest_error = 0;
  double feedback_error = 0;  // the others at `damping`
  double refined_error = 0;   // as feedback_error where refinement was not asked for
};

// Times, at most twice. Measured (docs/accuracy.md): a free zero leaves less to correct, and more damping then costs
// less.
inline constexpr double kRaisedDamping = 7;
inline constexpr double kRaisedDampingOfZeros = 10;
constexpr double raised_damping(const Grid& grid) noexcept {
  return grid.symmetric ? kRaisedDamping : kRaisedDampingOfZeros;
}
// More damping is taken while the sum of squared errors grows by no more than this, less only where it falls by more:
// the held-back tokens are of the calibration text, other text differs more from it than they do.
inline constexpr double kDampingTolerance = 0.1;

struct RoundingTrial {
  GptqOptions gptq;  // damping: the least that is tried
  double raised = kRaisedDamping;
  bool refine = true;       // whether refinement is among the candidates
  std::vector<Grid> grids;  // of the linears
  int64_t rows = 64;        // of each linear, evenly spaced; 0: all
  // Ranges of some rows of linear `index` for a Gram matrix.
  std::function<GroupRanges(const Matrix& rows, const Matrix& gram, size_t index)> ranges;
};

// gram [in, in]: of all calibration tokens, held-back ones included, which are `share` of them; held_back [in, in]: of
// those alone. For the trial gram becomes that of the others, gram - share held_back, in place; afterwards it is as it
// was but for rounding. Tried are trial.gptq.damping times trial.raised, times its square, which is taken where the sum
// of squared errors over the input is within kDampingTolerance of the first's, and, where it is not, times 1. Then for
// each linear the least of refined, with feedback, nearest is taken. Errors as make_gptq_factor; ArgumentError for
// shapes.
std::vector<RoundingChoice> choose_rounding(std::span<const Matrix* const> weights, Matrix& gram,
                                            const Matrix& held_back, double share, const RoundingTrial& trial);

}  // namespace metal_marlin
