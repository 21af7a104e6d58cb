// Sizes of a checkpoint; sizes and durations as text.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/model_source.h"

namespace metal_marlin {

struct ModelSize {
  uint64_t parameters = 0;
  uint64_t bytes = 0;  // of all tensors, scales and zeros included
  double bits_per_weight() const {
    return parameters == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};
// "512 bytes", "13.4 KB", "98.5 MB", "4.92 GB": powers of 1000.
std::string size_text(uint64_t bytes);
// Memory and room on a disk in powers of 1024, as --memory takes them: "512 MiB", "120.6 GiB".
std::string memory_text(uint64_t bytes);
// "0.4 s", "48 s", "12 min 30 s", "3 h 05 min".
std::string duration_text(double seconds);
ModelSize model_size(const ModelSource& source);
// Of a record, which a stranger may have written: a negative number counts as 0.
inline uint64_t bytes_of(int64_t number) {
  return number > 0 ? static_cast<uint64_t>(number) : 0;
}

}  // namespace metal_marlin
