// GGUF: any bytes give tensors inside the file, whose rows can be dequantized, or an Error.
#include <metal_marlin/error.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const GgufContent content = parse_gguf(bytes, "fuzz");
    for (const auto& [key, value] : content.metadata.pairs()) {
      value.type_name();
      try {
        content.metadata.get_u64(key);
      } catch (const FormatError&) {
      }
    }
    for (const GgufTensor& tensor : content.tensors) {
      if (!tensor.bytes.empty() &&
          (tensor.bytes.data() < bytes.data() || tensor.bytes.data() + tensor.bytes.size() > bytes.data() + size)) {
        std::abort();
      }
      constexpr int64_t kElements = 1 << 16;
      const int64_t columns = tensor.shape.empty() ? 0 : tensor.shape.back();
      if (columns == 0 || columns > kElements || tensor.elements() == 0) continue;
      std::vector<float> row(static_cast<size_t>(columns));
      try {
        dequantize_rows(tensor, tensor.elements() / columns - 1, 1, row.data());
      } catch (const UnsupportedError&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
