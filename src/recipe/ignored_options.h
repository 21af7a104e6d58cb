// Options that have no effect on a run, because its method or its calibration does not use them.
#pragma once

#include <metal_marlin/quantize.h>

#include <string>
#include <vector>

namespace metal_marlin {

struct IgnoredOption {
  std::string name;  // "salient-ratio"
  std::string key;   // "salient_ratio"
  std::string reason;
  bool asked = false;  // given by name, or unlike its default
};
// All of them, in the order of their table.
std::vector<IgnoredOption> ignored_options(const QuantizeOptions& options);
// Of calibrate_model.
std::vector<IgnoredOption> ignored_options(const CalibrationOptions& options);

// "without effect: --damping (only gptq uses it), --seed (only ...)": those that were asked for; empty: none were.
std::string ignored_options_warning(const std::vector<IgnoredOption>& ignored);

}  // namespace metal_marlin
