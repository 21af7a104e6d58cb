// Headers and indices of safetensors: any bytes give tensors inside the file or an Error.
#include <metal_marlin/error.h>

#include <cstdint>
#include <cstdlib>

#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const SafetensorsContent content = parse_safetensors(bytes, "fuzz");
    size_t total = 0;
    for (const TensorView& tensor : content.tensors) {
      if (static_cast<uint64_t>(tensor.elements()) * dtype_size(tensor.dtype) != tensor.bytes.size()) std::abort();
      if (!tensor.bytes.empty() &&
          (tensor.bytes.data() < bytes.data() || tensor.bytes.data() + tensor.bytes.size() > bytes.data() + size)) {
        std::abort();
      }
      total += tensor.bytes.size();
    }
    if (total > size) std::abort();
  } catch (const Error&) {
  }
  try {
    parse_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const Error&) {
  }
  return 0;
}
