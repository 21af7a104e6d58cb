#include "stages/quantize_block.h"

#include <algorithm>
#include <span>
#include <utility>

#include "stages/changed_tensors.h"
#include "stages/round_block.h"
#include "stages/unfold.h"

namespace metal_marlin {

std::map<LinearKind, double> weight_errors(const ModelSource& source, int64_t layer, const Block& block,
                                           const std::set<LinearKind>& kinds) {
  std::map<LinearKind, double> errors;
  Unfolding unfolding(source.family(), source.config());
  for (const LinearSlot& slot : source.linears(layer)) {
    Matrix original = source.load(slot.weight, slot.first_row, slot.rows);
    Matrix result = block.linear(slot.kind).weight.clone();
    Matrix norm_a;
    std::span<const float> norm_b;
    if (NormKind norm{}; Unfolding::norm_before(slot.kind, norm) && !block.norm(norm).empty()) {
      norm_a = source.load(source.norm_name(layer, norm));
      norm_b = block.norm(norm);
    }
    unfolding.undo(slot.kind, norm_a.values(), norm_b, original, result);
    if (kinds.count(slot.kind) == 0) continue;
    errors[slot.kind] = difference_of(slot.weight, original, result, source.path(), "the result").relative();
  }
  return errors;
}

BlockResult quantize_block(const BlockJob& job, Block block, BlockStats stats, const BlockProbe& probe,
                           Tracker& tracker) {
  FoldedBlock folded = fold_block(job, std::move(block), std::move(stats), probe, tracker);
  RoundedBlock rounded = round_block(job, std::move(folded.block), std::move(folded.stats), {}, tracker);
  const std::set<LinearKind> quantized = quantized_kinds(job.tensors);
  ChangedTensors changed = changed_tensors(job.source, job.layer, folded.folds, quantized, rounded.block);
  for (const auto& [kind, error] : weight_errors(job.source, job.layer, rounded.block, quantized))
    rounded.linears[rounded.record_of.at(kind)].weight_error = error;

  BlockResult result;
  result.record.linears = std::move(rounded.linears);
  result.record.scales = std::move(folded.scales);
  result.record.invariance_error = folded.invariance_error;
  result.record.changed = changed.names();
  result.record.flushed = std::move(changed.flushed);
  result.finished.quantized = std::move(rounded.quantized);
  result.finished.blocks = std::move(rounded.blocks);
  result.finished.changed = std::move(changed.tensors);
  result.block = std::move(rounded.block);
  return result;
}

}  // namespace metal_marlin
