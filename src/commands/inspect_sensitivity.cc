// inspect --sensitivity: what the quantization of each linear costs.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <filesystem>
#include <vector>

#include "core/border.h"
#include "core/enum_names.h"
#include "core/files/file_status.h"
#include "core/threads.h"
#include "mixed/mixed_bits.h"
#include "mixed/sensitivity.h"
#include "options/tables.h"
#include "plan/memory_plan.h"
#include "recipe/ignored_options.h"
#include "recipe/make_recipe.h"
#include "recipe/tensor_plan.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

// What the measurement does with the options: it evaluates nothing and chooses no bits.
QuantizeOptions measured_options(const QuantizeOptions& asked) {
  QuantizeOptions o = asked;
  o.evaluation.text = "none";  // nothing is held back: no figure of the whole is asked for
  o.max_kl.reset();
  o.mixed_bits = false;
  o.target_bits = 8;  // any: asks for the measurement, and for its checks
  return o;
}

std::vector<IgnoredOption> ignored_by_sensitivity(const QuantizeOptions& asked, const QuantizeOptions& measured) {
  std::vector<IgnoredOption> ignored = ignored_options(measured);
  std::erase_if(ignored, [](const IgnoredOption& o) { return is_idle_in_sensitivity(o.key); });
  const QuantizeOptions defaults;
  for (const auto& row : quantize_options().rows()) {
    if (!is_idle_in_sensitivity(row.key)) continue;
    ignored.push_back({row.name, row.key, "sensitivity is measured without it", row.get(asked) != row.get(defaults)});
  }
  return ignored;
}

}  // namespace

SensitivityReport sensitivity_of_model(const std::string& model, const QuantizeOptions& options,
                                       const Observer& observer) try {
  const ThreadCount thread_count(options.machine.threads);
  const auto source = ModelSource::open(model);
  source->check();
  if (options.bits != 4) {
    throw ArgumentError("bits",
                        fmt::format("--bits: expected 4, at which sensitivity is measured, found {}", options.bits));
  }
  const QuantizeOptions o = measured_options(options);
  const Recipe recipe = make_recipe(o, *source);
  Tracker tracker(observer);
  if (const std::string text = ignored_options_warning(ignored_by_sensitivity(options, o)); !text.empty())
    tracker.warn(text);
  tracker.warn_of(source->warnings());
  if (source->quantized())
    tracker.warn(
        source->path() +
        " is already quantized: what is measured is compared with it, not with the model that it was made from");
  const std::vector<LayerTensors> layers = planned_layers(*source, o, recipe);
  require_quantized(*source, layers);
  const std::string scratch = (temporary_folder() / "states").string();
  const TextSizes sizes = expected_sizes(*source, o);
  plan_memory(*source, recipe, o, sizes.calibration, 0, "");
  const RunTexts texts = prepare_texts(*source, o, tracker, scratch);
  if (const std::string text = sensitivity_warning(o, std::ssize(texts.calibration.sequences)); !text.empty())
    tracker.warn(text);
  const Sensitivity measured = measure_sensitivity(*source, o, recipe, layers, texts.calibration, scratch, tracker);
  SensitivityReport report;
  static_cast<SensitivityRecord&>(report) = record_of(measured);
  report.interaction = measured.interaction();
  report.method = name_of(o.method);
  report.scheme = name_of(o.scheme);
  report.bits = recipe.grid.bits;
  report.group_size = recipe.grid.group_size;
  report.calibration = texts.record;
  return report;
} catch (...) {
  rethrow_as_error("sensitivity_of_model");
}

}  // namespace metal_marlin
