// The writer of each format.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include "write/checkpoint_writer.h"
#include "write/format_writers.h"

namespace metal_marlin {

const std::vector<std::string>& checkpoint_formats() {
  static const std::vector<std::string> kFormats = {"native", "awq", "gptq", "gptq_v2", "marlin"};
  return kFormats;
}

std::unique_ptr<CheckpointWriter> CheckpointWriter::create(const std::string& format) {
  if (format == "native") return std::make_unique<NativeWriter>();
  if (format == "awq") return std::make_unique<AwqWriter>();
  if (format == "gptq") return std::make_unique<GptqWriter>(GptqVersion::kV1);
  if (format == "gptq_v2") return std::make_unique<GptqWriter>(GptqVersion::kV2);
  if (format == "marlin") return std::make_unique<MarlinWriter>();
  if (format == "f16") return std::make_unique<F16Writer>();
  throw ArgumentError(
      fmt::format("unknown checkpoint format \"{}\": known are {}", format, fmt::join(checkpoint_formats(), ", ")));
}

}  // namespace metal_marlin
