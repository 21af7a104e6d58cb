// What several options of quantize_model choose together.
#pragma once

#include <metal_marlin/quantize.h>

#include <string>

namespace metal_marlin {

// Whether the bits of each linear are chosen by their cost.
bool chooses_bits(const QuantizeOptions& options);
// Whether max_kl, not target_bits, says how many.
bool chooses_by_limit(const QuantizeOptions& options);
// The option that chose how weights are rounded, as on the command line: "--effort fast".
std::string rounding_option(const QuantizeOptions& options);

}  // namespace metal_marlin
