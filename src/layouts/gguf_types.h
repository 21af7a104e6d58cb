// The ggml type in which a GGUF file stores a linear.
#pragma once

#include <optional>

#include "core/values.h"
#include "layouts/layout_plan.h"

namespace metal_marlin {

// Of a grid: its block, or the type whose codes it is (pack/ggml_codes.h). Nothing: no type holds it.
std::optional<GgmlType> gguf_type(const Grid& grid) noexcept;
// Of a linear of a plan. One that is not symmetric has minima there.
std::optional<GgmlType> gguf_type(const QuantizedLinear& linear) noexcept;

}  // namespace metal_marlin
