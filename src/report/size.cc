#include "report/size.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/counted.h"

namespace metal_marlin {

std::string size_text(uint64_t bytes) {
  if (bytes < 1000) return counted(bytes, "byte");
  const auto value = static_cast<double>(bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} KB", value / 1e3);
  if (bytes < 1'000'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

std::string memory_text(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes < uint64_t{1} << 20) return fmt::format("{:.1f} KiB", value / (1 << 10));
  if (bytes < uint64_t{1} << 30) return fmt::format("{:.0f} MiB", value / (1 << 20));
  if (bytes < uint64_t{1} << 40) return fmt::format("{:.1f} GiB", value / (1 << 30));
  return fmt::format("{:.1f} TiB", value / static_cast<double>(uint64_t{1} << 40));
}

std::string duration_text(double seconds) {
  if (!(seconds > 0)) return "0 s";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(std::min(seconds, 1e12)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
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
