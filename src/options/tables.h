// The tables of options. One row is one option: src/options/option.h says what it holds.
#pragma once

#include <metal_marlin/bench.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/generate.h>
#include <metal_marlin/quantize.h>

#include "options/option_table.h"

namespace metal_marlin {

struct CalibrateExtras {
  bool gram = true;
  bool keep_activations = false;
  bool overwrite = false;
};
struct EvaluateExtras {
  std::string reference;
};

// quantize_model, plan_quantization, sensitivity_of_model: with the options of calibration, evaluation and machine.
const OptionTable<QuantizeOptions>& quantize_options();
// Options of that table, by their keys, which sensitivity_of_model has no use for: it writes no result and evaluates
// nothing. It measures at 4 bits.
bool is_idle_in_sensitivity(const std::string& key);
const OptionTable<CalibrationOptions>& calibration_options();
const OptionTable<CalibrateExtras>& calibrate_options();  // of calibrate_model alone
const OptionTable<EvaluationOptions>& evaluation_options();
const OptionTable<EvaluateExtras>& evaluate_options();  // of evaluate_model alone
const OptionTable<MachineOptions>& machine_options();
const OptionTable<ComputeOptions>& compute_options();
const OptionTable<GenerateOptions>& generate_options();
const OptionTable<ConvertOptions>& convert_options();
const OptionTable<BenchOptions>& bench_options();

}  // namespace metal_marlin
