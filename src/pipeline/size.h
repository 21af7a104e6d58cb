// Sizes of a checkpoint.
#pragma once

#include <cstdint>
#include <string>

#include "source/model_source.h"

namespace metal_marlin {

struct ModelSize {
  uint64_t parameters = 0;
  uint64_t bytes = 0;  // of all tensors, scales and zeros included
  double bits_per_weight() const { return parameters == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters); }
};
// "512 bytes", "13.4 KB", "98.5 MB", "4.92 GB": powers of 1000, as disks are sold.
std::string size_text(uint64_t bytes);
ModelSize model_size(const ModelSource& source);

}  // namespace metal_marlin
