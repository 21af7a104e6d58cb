// inspect --sensitivity: what the quantization of each linear costs.
#include <metal_marlin/quantize.h>

#include <filesystem>

#include "core/border.h"
#include "core/enum_names.h"
#include "core/files/file_status.h"
#include "core/threads.h"
#include "mixed/mixed_bits.h"
#include "mixed/sensitivity.h"
#include "plan/memory_plan.h"
#include "recipe/make_recipe.h"
#include "recipe/presets.h"
#include "recipe/tensor_plan.h"
#include "text/texts.h"

namespace metal_marlin {

SensitivityReport sensitivity_of_model(const std::string& model, const QuantizeOptions& options,
                                       const Observer& observer) try {
  const ThreadCount thread_count(options.machine.threads);
  const auto source = ModelSource::open(model);
  source->check();
  QuantizeOptions o = with_presets(options);
  o.evaluation.text = "none";  // nothing is held back: no figure of the whole is asked for
  o.mixed_bits = false;
  o.target_bits = 8;  // any: asks for the measurement, and for its checks
  const Recipe recipe = make_recipe(o, *source);
  Tracker tracker(observer);
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
