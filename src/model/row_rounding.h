// Rows of the embedding or the head as a checkpoint will hold them.
#pragma once

#include <functional>
#include <string>

#include "core/tensor.h"

namespace metal_marlin {

// Rounds rows [n, hidden] of `tensor` in place. Empty: nothing is rounded.
using RowRounding = std::function<void(const std::string& tensor, Matrix& rows)>;

}  // namespace metal_marlin
