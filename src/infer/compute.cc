#include "infer/compute.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "source/model_source.h"

namespace metal_marlin {

Compute compute_of(const ComputeOptions& options, const MachineOptions& machine, const ModelSource& source,
                   bool generates) {
  if (machine.precision != "auto" && machine.precision != "f32" && machine.precision != "bf16") {
    throw ArgumentError(fmt::format("precision \"{}\": expected auto, f32 or bf16", machine.precision));
  }
  if (machine.precision != "auto" && options.compute != "auto" && machine.precision != options.compute) {
    throw ArgumentError(fmt::format(
        "compute \"{}\" and precision \"{}\" contradict each other: both name the arithmetic of the model's "
        "linears; give one of them",
        options.compute, machine.precision));
  }
  std::string wanted = options.compute == "auto" ? machine.precision : options.compute;
  if (wanted == "auto") wanted = generates && source.quantized() ? "int8" : "f32";
  Compute compute;
  if (wanted == "int8") {
    if (!source.quantized()) {
      throw UnsupportedError(fmt::format(
          "{}: compute int8: expected a model whose linears are quantized, found none; use f32 or bf16, or quantize it",
          source.path()));
    }
    compute.codes = true;
    compute.name = "int8";
  } else if (wanted == "bf16") {
    compute.precision = ComputeType::kBF16;
    compute.name = "bf16";
  } else if (wanted != "f32") {
    throw ArgumentError(fmt::format("compute \"{}\": expected auto, int8, bf16 or f32", options.compute));
  }
  if (options.head == "8" || (options.head == "auto" && generates && compute.codes)) {
    compute.head = HeadBits::k8;
  } else if (options.head != "16" && options.head != "auto") {
    throw ArgumentError(fmt::format("head \"{}\": expected auto, 16 or 8", options.head));
  }
  if (options.kv == "auto") {
    compute.kv = compute.codes || compute.precision != ComputeType::kF32 ? KvType::kF16 : KvType::kF32;
  } else if (options.kv == "32") {
    compute.kv = KvType::kF32;
  } else if (options.kv == "8") {
    compute.kv = KvType::kI8;
  } else if (options.kv != "16") {
    throw ArgumentError(fmt::format("kv \"{}\": expected auto, 32, 16 or 8", options.kv));
  }
  return compute;
}

}  // namespace metal_marlin
