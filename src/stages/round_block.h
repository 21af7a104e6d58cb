// The second half of a block's quantization: every linear is rounded to its grid.
#pragma once

#include <metal_marlin/report_records.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/values.h"
#include "formats/blocks/block_tensor.h"
#include "model/block.h"
#include "quantize/rounding/rounding.h"
#include "recipe/recipe.h"
#include "stages/fold_block.h"
#include "stages/rounding_choice.h"

namespace metal_marlin {

// Another grid for the linears of an input, and what it costs: the squared relative output error of a sample of their
// rows on the calibration text, rounded as the recipe says. 0 for kUnquantizedBits.
struct GridTrial {
  Grid grid;
  double loss = 0;
};
inline constexpr int64_t kTrialRows = 128;
using GridTrials = std::array<std::vector<GridTrial>, kLinearInputs>;  // by LinearInput

// The factor of an input's Gram matrix, which all linears of the input share. It is made when it is first asked for.
class InputFactor {
 public:
  InputFactor(const Recipe& recipe, const Matrix& gram) : recipe_(recipe), gram_(gram) {}
  // Throws as make_gptq_factor does.
  const GptqFactor& at(double damping);
  // The factor that round_weight() needs; null without feedback.
  const GptqFactor* of(const RoundingOptions& rounding);

 private:
  const Recipe& recipe_;
  const Matrix& gram_;
  double damping_ = 0;
  std::optional<GptqFactor> factor_;
};

struct RoundedLinear {
  QuantizedTensor tensor;
  BlockTensor blocks;   // in place of it where the grid is that of a ggml type
  LinearRecord record;  // what is known of grid, ranges and rounding
};
// Rounds one linear of an input with these statistics, to whose Gram matrix the factor belongs. chosen: its rounding,
// by the validation split; nothing: as the recipe says.
RoundedLinear round_linear(const Recipe& recipe, LinearKind kind, const Matrix& weight, const Grid& grid,
                           const ActivationStats& stats, const std::optional<RoundingChoice>& chosen,
                           InputFactor& factor);
// Adds to the record the errors of codes that stand for `weight`: weight_error, output errors on the calibration text
// (where there is a Gram matrix) and on held-back text (in_features 0: none), the scales and the clipped shares.
void add_errors(const Matrix& weight, const QuantizedTensor& tensor, const ActivationStats& stats,
                const ActivationStats& held_back, LinearRecord& record);
// The same of blocks, which have no scales of groups to tell of.
void add_errors(const Matrix& weight, const BlockTensor& blocks, const ActivationStats& stats,
                const ActivationStats& held_back, LinearRecord& record);

// Chooses the rounding of all quantized linears of an input, before the first of them is rounded: they share the
// factors. During the choice stats.gram is that of the other tokens; afterwards it is restored, up to rounding.
// validation_gram is that of the validation split, `share` of the tokens.
std::map<LinearKind, RoundingChoice> choose_rounding_of(const BlockJob& job, LinearInput input, const Block& block,
                                                        ActivationStats& stats, Matrix validation_gram, double share);

// The loss of each grid for the linears of an input.
std::vector<GridTrial> try_grids(const BlockJob& job, LinearInput input, const Block& block,
                                 const ActivationStats& stats, std::vector<GridTrial> trials, InputFactor& factor);

struct RoundedBlock {
  Block block;                                       // its quantized linears dequantized
  std::map<std::string, QuantizedTensor> quantized;  // by weight name
  std::map<std::string, BlockTensor> blocks;         // likewise
  std::vector<LinearRecord> linears;
  std::map<LinearKind, size_t> record_of;  // the place of each linear in `linears`
  GridTrials trials;                       // those that were asked for, with their losses
};
// Rounds all linears of the block that are to be quantized. `stats` are those of its inputs as they are now. trials:
// grids to try beside those that are taken.
RoundedBlock round_block(const BlockJob& job, Block block, BlockStats stats, GridTrials trials, Tracker& tracker);

}  // namespace metal_marlin
