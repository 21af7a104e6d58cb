// How far the rounding of an input's linears may go, judged on calibration tokens that it has not seen: error feedback
// and refinement fit the Gram matrix of the calibration text, and with few tokens they fit its noise.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"
#include "quantize/rounding/rounding.h"

namespace metal_marlin {

// The choice for one linear. Its errors are relative output errors (LinearErrors::output_error) on the tokens of the
// validation split, of RoundingTrial::rows rows.
struct RoundingChoice {
  // Without feedback there is no refinement. The damping is the same for all linears of an input.
  RoundingOptions rounding;
  double nearest_error = 0;
  double feedback_error = 0;  // the others at this damping
  double refined_error = 0;   // as feedback_error where refinement was not asked for
};

// The larger of two dampings is preferred: it is taken while the sum of squared errors grows by no more than this
// share. The validation split is calibration text, and other text differs from the statistics by more.
inline constexpr double kDampingTolerance = 0.1;

struct RoundingTrial {
  // Its damping is the least that is tried; refine: whether refinement is among the candidates.
  RoundingOptions rounding;
  double raised = kRaisedDamping;
  std::vector<Grid> grids;  // of the linears
  int64_t rows = 64;        // of each linear, evenly spaced; 0: all
  // Ranges of some rows of linear `index` for a Gram matrix.
  std::function<GroupRanges(const Matrix& rows, const Matrix& gram, size_t index)> ranges;
};

// Chooses how the linears of one input are rounded. gram [in, in] is of all calibration tokens; held_back [in, in] is
// of the validation split, which is `share` of them. During the trial gram is changed in place to that of the other
// tokens; afterwards it is restored, up to rounding. First trial.rounding.gptq.damping times trial.raised is tried,
// then times its square: the square is taken when the sum of squared errors is within kDampingTolerance of the first's,
// else times 1 is tried. Then each linear takes the least error of three: refined, with feedback, nearest. Throws as
// make_gptq_factor does, and ArgumentError for shapes.
std::vector<RoundingChoice> choose_rounding(std::span<const Matrix* const> weights, Matrix& gram,
                                            const Matrix& held_back, double share, const RoundingTrial& trial);

}  // namespace metal_marlin
