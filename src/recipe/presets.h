// What follows from the method where no option says otherwise.
#pragma once

#include <metal_marlin/quantize.h>

namespace metal_marlin {

// Values of the recipe `awq`, measured on SmolLM2 (docs/algorithms.md).
inline constexpr double kFirstTokenWeight = 9;

// The options with everything filled in that follows from the method: no optional is empty but target_bits and max_kl,
// and group_size and precision, which depend on model and machine. ArgumentError where options contradict each other.
QuantizeOptions options_in_force(const QuantizeOptions& options);
// The largest damping that the guard tries.
double most_damping(double least, Scheme scheme);

}  // namespace metal_marlin
