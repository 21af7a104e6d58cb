// The native layout's parts that files without a config have too: those of awq_quantize_model.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "layouts/layout_plan.h"

namespace metal_marlin {

// What a file in the native format says of itself, and the parts of a linear in it. stored_scales: the scales of input
// channels are stored beside the codes, because no module before takes them up.
std::map<std::string, std::string> native_metadata(const LayoutPlan& plan, bool stored_scales = false);
std::vector<TensorInfo> native_parts(const QuantizedLinear& linear, bool stored_scale = false);

}  // namespace metal_marlin
