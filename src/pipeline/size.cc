#include "pipeline/size.h"

#include <fmt/format.h>

namespace metal_marlin {

std::string size_text(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  const auto value = static_cast<double>(bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} KB", value / 1e3);
  if (bytes < 1'000'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

ModelSize model_size(const ModelSource& source) {
  ModelSize size;
  for (const CheckpointTensor& t : source.tensors()) {
    uint64_t n = 1;
    for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
    size.parameters += n;
    size.bytes += t.bytes;
  }
  return size;
}

}  // namespace metal_marlin
