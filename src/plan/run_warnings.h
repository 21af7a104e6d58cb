// What a user should know before a run starts: the run and its plan say the same.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/block_record.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

class StatsFile;

// What of a checkpoint is known before the work: the linears in codes, and the tensors into which scales will be
// folded. `layers`: the plan of every layer.
CheckpointPlan planned_checkpoint(const ModelSource& source, const Recipe& recipe,
                                  std::span<const LayerTensors> layers);

// A source that is quantized already, a text that both calibrates and judges, options without effect, layers that the
// config does not count: a sentence each, in this order.
std::vector<std::string> warnings_before_work(const ModelSource& source, const QuantizeOptions& options);

// A sentence on tensors of float32 that the result holds in 16 bits, which the figures of the report do not see; empty:
// none of `narrowed` (WriteReport::narrowed of all formats) loses anything, as far as that is known before the work.
std::string narrowed_warning(const ModelSource& source, const Recipe& recipe, const std::vector<std::string>& narrowed);
// WriteReport::narrowed of all formats, without doubles. `layers`: the plan of every layer.
std::vector<std::string> narrowed_tensors(const ModelSource& source, const QuantizeOptions& options,
                                          const Recipe& recipe, std::span<const LayerTensors> layers);

// A sentence on statistics that do not tell the inputs of first tokens apart; empty: they do, or it makes no
// difference.
std::string first_rows_warning(const Recipe& recipe, const StatsFile& statistics);
// Says that statistics have the diagonals of Gram matrices alone, where the recipe reads the whole; empty: they have
// it.
std::string diagonal_warning(const Recipe& recipe, const StatsFile& statistics);

// ArgumentError when a limit on the KL divergence is given and nothing will be there to judge by.
void require_judge(const QuantizeOptions& options);

// A sentence for each pattern of options.skip that matches no linear. `layers`: the plan of every layer.
std::vector<std::string> unused_pattern_warnings(const QuantizeOptions& options, std::span<const LayerTensors> layers);

// A sentence on scales that float16 could not hold, which changes the weights of their groups; empty: there are none.
// `blocks`: the reports of all blocks.
// What float16 could not hold of the written tensors: one line for each with values beyond its range, and one for all
// values that became 0. `blocks`: the journal's reports of blocks, whose folded tensors count too.
std::vector<std::string> float16_warnings(const ModelSource& source, const WriteReport& report,
                                          std::span<const BlockRecord> blocks);

std::string clamped_scales_warning(std::span<const BlockRecord> blocks);

// In what the linears of a model are stored that is quantized already, "Q4_1" or "gptq"; empty: it is not.
std::string quantized_storage(const ModelSource& source);

}  // namespace metal_marlin
