// What to say of a shell pattern (--skip, --linear-bits) that matches no linear.
#pragma once

#include <span>
#include <string>

namespace metal_marlin {

// "names look like model.layers.0.self_attn.q_proj.weight; did you mean '*q_proj.weight'?". `names`: those of the
// linears, at least one. Where no pattern near to this one matches, the question is left out.
std::string pattern_hint(const std::string& pattern, std::span<const std::string> names);

}  // namespace metal_marlin
