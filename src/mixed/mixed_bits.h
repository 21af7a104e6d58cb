// How many bits each linear gets: from what its error costs (sensitivity.h) or from the user's own patterns.
#pragma once

#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/values.h"
#include "options/choices.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

// Codes, one 16-bit scale per group and, where the grid has them, a zero of the width of a code or a 16-bit minimum per
// group: what the numbers take, not what a layout adds to them. 16 for each weight that stays in 16 bits.
uint64_t storage_bits(int64_t rows, int64_t columns, const Grid& grid);

// One way to store the linears of an item.
struct BitsOption {
  Grid grid;
  uint64_t bits = 0;  // storage_bits of all
  double kl = 0;      // estimated KL divergence that they cause, in nats
};
// Linears that share an input and a grid, because engines fuse them at load.
struct SensitiveItem {
  int64_t layer = 0;
  LinearInput input = LinearInput::kQkv;
  std::vector<std::string> names;  // of the weights
  uint64_t weights = 0;
  double kl = 0;                 // measured, of Recipe::grid: mean over the tokens
  double kl_standard_error = 0;  // of that mean, tokens taken as independent
  std::vector<BitsOption> options;
};
struct Sensitivity {
  int64_t sequences = 0;
  int64_t tokens = 0;  // of the sequences
  int64_t statistics_tokens = 0;
  double kl_together = 0;  // measured, of all items in Recipe::grid at once
  std::vector<SensitiveItem> items;
  // kl_together over the sum of all kl, by which sums of estimates are scaled; at least 0.
  double interaction() const;
};

// Recipe::grid, and what the formats let a linear have in its place: groups of twice, half and a quarter of the size
// (up to 128, from Layout::least_group()), other widths, 16 bits; only the last where one of the formats has
// one grid for all.
std::vector<Grid> grid_choices(const QuantizeOptions& options, const Recipe& recipe);
// The sets of linears that are planned to be quantized, each with what every format can hold for all of it: the first
// option is the grid that it has in the plan, the only one where --linear-bits gave it. Nothing is measured yet.
std::vector<SensitiveItem> sensitive_items(const std::vector<LayerTensors>& layers, const Recipe& recipe,
                                           const QuantizeOptions& options);

struct BitsChoice {
  std::vector<size_t> options;  // of each item
  double bits_per_weight = 0;
  double kl = 0;  // estimated, of all together
};
// ArgumentError where no choice can meet options.target_bits, with what would: known before anything is measured.
void check_reachable(const std::vector<SensitiveItem>& items, const QuantizeOptions& options);
// Least estimated KL divergence within options.target_bits, or fewest bits within options.max_kl. ArgumentError when
// nothing meets it, or only 16 bits for all, with what would.
BitsChoice choose_bits(const Sensitivity& sensitivity, const QuantizeOptions& options);
LinearGrids grids_of(const Sensitivity& sensitivity, const BitsChoice& choice);

SensitivityRecord record_of(const Sensitivity& sensitivity);
// Takes the figures of such a record, which a file held; false, and nothing taken, unless they are of the very
// same items and plausible.
bool take_measured(const SensitivityRecord& record, Sensitivity& sensitivity);
// The report's "mixed", but for file_bits_per_weight.
MixedRecord mixed_record(const Sensitivity& sensitivity, const BitsChoice& choice, const QuantizeOptions& options);
// What a checkpoint holds for the linears of that record: everything that its format stores for them.
double file_bits_per_weight(const MixedRecord& mixed, const WriteReport& written);

}  // namespace metal_marlin
