#include "write/tensor_provider.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

namespace metal_marlin {

BlockTensor TensorProvider::blocks(const std::string& name) {
  throw ArgumentError(fmt::format("{}: planned as blocks of a ggml type, delivered none", name));
}

}  // namespace metal_marlin
