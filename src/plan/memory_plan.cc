#include "plan/memory_plan.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "checkpoint/companions.h"
#include "core/machine.h"
#include "infer/batch_sampler.h"
#include "kernels/linear_algebra.h"
#include "layouts/layouts.h"
#include "mixed/sensitivity.h"
#include "model/block.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/refine.h"
#include "report/size.h"
#include "scale/feedback_loss.h"
#include "text/select_pool.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::string mib(uint64_t bytes) {
  return fmt::format("{} MiB", (bytes + kMiB - 1) / kMiB);
}

// What is held at once, at most.
uint64_t peak_of(const MemoryRecord& plan) {
  const uint64_t in_block = plan.block + plan.statistics + std::max(plan.forward_scratch, plan.quantize_scratch);
  return std::max(
      {plan.base + plan.states + std::max(in_block, plan.head), plan.self_text, plan.selection, plan.sensitivity});
}

}  // namespace

MemoryRecord measure_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                            int64_t calibration_tokens, int64_t held_back_tokens) {
  const ModelConfig& c = source.config();
  MemoryRecord plan;
  plan.base = program_bytes(source);
  const bool evaluating = held_back_tokens > 0;
  const auto state_bytes = static_cast<uint64_t>(calibration_tokens + 2 * held_back_tokens) *
                           static_cast<uint64_t>(c.hidden_size) * sizeof(float);
  plan.states = state_bytes;

  std::array<uint64_t, kLinearInputs> in_features{};
  uint64_t weights = 0;
  uint64_t largest = 0;
  for (const LinearSlot& slot : source.linears(0)) {
    const auto n = static_cast<uint64_t>(slot.rows) * static_cast<uint64_t>(slot.columns);
    weights += n;
    largest = std::max(largest, n);
    in_features[static_cast<size_t>(input_of(slot.kind))] = static_cast<uint64_t>(slot.columns);
    uint64_t scratch = largest * (sizeof(float) * 2 + 1);
    uint64_t rounding = 0;
    if (recipe.rounding.feedback) rounding = gptq_memory_bytes(slot.columns, slot.rows);
    if (recipe.rounding.refine)
      rounding = std::max(rounding, refine_memory_bytes(slot.columns, recipe.grid.group_of(slot.columns)));
    // The scale search's factor beside the blocks of the Gram matrix, which touch a page per row.
    if (recipe.scale_loss == ScaleLoss::kFeedback) {
      const auto k = static_cast<uint64_t>(slot.columns);
      const auto group = static_cast<uint64_t>(recipe.grid.group_of(slot.columns));
      const uint64_t blocks = ranges_by_gram(recipe) ? k * std::max<uint64_t>(group * sizeof(float), 4096) : 0;
      rounding =
          std::max(rounding, k * k * 2 + blocks + 4 * static_cast<uint64_t>(FeedbackLoss::kRows) * k * sizeof(float));
    }
    scratch += rounding;
    plan.quantize_scratch = std::max(plan.quantize_scratch, scratch);
  }
  plan.block = weights * sizeof(float) + weights;
  const int copies = 1 + (evaluating ? 1 : 0) + (recipe.guard ? 1 : 0);
  for (const uint64_t k : in_features) plan.statistics += k * k * sizeof(float) * copies;
  if (recipe.precision == MatmulPrecision::kBF16) {
    plan.statistics +=
        *std::max_element(in_features.begin(), in_features.end()) * static_cast<uint64_t>(kBF16GramTokens) * 2;
  }
  const int64_t longest = std::max(options.calibration.sequence_length, evaluating ? options.evaluation.context : 0);
  const auto batch = static_cast<uint64_t>(std::max(BlockForward::kBatchTokens, longest)) *
                     static_cast<uint64_t>(c.hidden_size) * sizeof(float);
  plan.forward_scratch = BlockForward(source.family(), c, recipe.precision).scratch_bytes(longest) + batch;
  if (evaluating)
    plan.forward_scratch =
        std::max(plan.forward_scratch, BlockForward(source.family(), c).scratch_bytes(longest) + batch);
  if (evaluating) {
    plan.head = head_bytes(source) + 2 * batch;
    // A format that rounds the head: it is then held a second time, in float32.
    const Layout& first = layout_named(options.formats.front());
    if (first.container() == ContainerKind::kGguf || (first.holds_embedding() && recipe.outer.bits))
      plan.head += static_cast<uint64_t>(c.vocab_size) * static_cast<uint64_t>(c.hidden_size) * sizeof(float);
  }
  if (has_source(options.calibration, SourceKind::kSelf)) {
    plan.self_text = plan.base + self_text_bytes(source, memory_budget(options.machine), most_self_text(options),
                                                 options.calibration.sequence_length);
  }
  if (options.calibration.select > 0) {
    plan.selection = plan.base + select_pool_bytes(source, options.machine, samples_of(options),
                                                   options.calibration.sequence_length);
  }

  if (chooses_bits(options)) {
    // The states of the calibration text are in memory already. The block is held twice, and once more packed.
    const uint64_t in_block = 2 * plan.block + plan.statistics + std::max(plan.forward_scratch, plan.quantize_scratch);
    plan.sensitivity = plan.base + sensitivity_bytes(source, options, std::max(in_block, plan.head));
  }

  const uint64_t budget = memory_budget(options.machine);
  if (peak_of(plan) > budget && plan.states > 0) {
    plan.spilled = plan.states;
    plan.states = 0;
  }
  const ModelSize size = model_size(source);
  const uint64_t linears = weights * static_cast<uint64_t>(c.num_hidden_layers);
  // Scales and zeros of groups of 32 at worst. A target may be above the usual bits.
  const double bits = std::max<double>(recipe.grid.bits, options.target_bits.value_or(0)) + 1;
  const auto quantized = static_cast<uint64_t>(static_cast<double>(linears) * bits / 8);
  const uint64_t kept = (size.parameters > linears ? size.parameters - linears : 0) * 2;
  plan.disk = plan.spilled + quantized + (quantized + kept + companion_bytes(source)) * options.formats.size();
  plan.peak_bytes = peak_of(plan);
  return plan;
}

std::string memory_shortage(const MemoryRecord& plan, const QuantizeOptions& options) {
  const uint64_t budget = memory_budget(options.machine);
  if (plan.peak_bytes <= budget) return {};
  std::string text = fmt::format(
      "--memory {}: this run needs at least {}: {} for the program, {} for one block, {} for statistics, {} "
      "for scratch; {} for the head, used alone after the blocks",
      mib(budget), mib(plan.peak_bytes), mib(plan.base), mib(plan.block), mib(plan.statistics),
      mib(std::max(plan.forward_scratch, plan.quantize_scratch)), mib(plan.head));
  if (plan.self_text > 0) text += fmt::format("; {} while the model makes its text", mib(plan.self_text));
  if (plan.selection > 0) {
    text += fmt::format("; {} while sequences are selected from {}", mib(plan.selection), samples_of(options));
  }
  if (plan.sensitivity > 0)
    text += fmt::format("; {} while the linears' sensitivity is measured", mib(plan.sensitivity));
  return text + "; give more memory";
}

MemoryRecord plan_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                         int64_t calibration_tokens, int64_t held_back_tokens, const std::string& output) {
  const MemoryRecord plan = measure_memory(source, recipe, options, calibration_tokens, held_back_tokens);
  if (const std::string text = memory_shortage(plan, options); !text.empty()) throw SystemError(text);
  if (!output.empty()) {
    if (const std::string text = disk_shortage(plan, output); !text.empty()) throw SystemError(text);
  }
  return plan;
}

std::string disk_shortage(const MemoryRecord& plan, const std::string& output) {
  namespace fs = std::filesystem;
  uint64_t written = 0;  // bytes of an interrupted run, which this one continues or replaces
  std::error_code code;
  for (fs::directory_iterator entry(fs::path(output) / ".metal-marlin", code), end; !code && entry != end;
       entry.increment(code)) {
    std::error_code unreadable;
    const uint64_t size = entry->is_regular_file(unreadable) ? entry->file_size(unreadable) : 0;
    if (!unreadable) written += size;
  }
  const uint64_t needed = plan.disk > written ? plan.disk - written : 0;
  const uint64_t free = free_disk_bytes(output);
  if (free >= needed) return {};
  return fmt::format("{}: about {} of disk are needed, {} are free there; free some space or choose another folder",
                     output, memory_text(needed), memory_text(free));
}

}  // namespace metal_marlin
