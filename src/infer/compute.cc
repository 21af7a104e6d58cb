#include "infer/compute.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "checkpoint/model_source.h"
#include "core/enum_names.h"

namespace metal_marlin {

Compute compute_of(const ComputeOptions& options, const MachineOptions& machine, const ModelSource& source,
                   bool generates) {
  std::optional<Arithmetic> wanted = options.compute;
  if (machine.precision) {
    const Arithmetic named = machine.precision == MatmulPrecision::kBF16 ? Arithmetic::kBF16 : Arithmetic::kF32;
    if (wanted && *wanted != named) {
      throw ArgumentError(
          "compute",
          fmt::format("--compute {} and --precision {} contradict each other: both name the arithmetic of the model's "
                      "linears; give "
                      "one of them",
                      name_of(*wanted), name_of(*machine.precision)));
    }
    wanted = named;
  }
  Compute compute;
  switch (wanted.value_or(generates && source.has_codes() ? Arithmetic::kInt8 : Arithmetic::kF32)) {
    case Arithmetic::kInt8:
      if (!source.has_codes()) {
        throw UnsupportedError(
            fmt::format("{}: --compute int8: expected a model whose linears are quantized, found none; "
                        "use f32 or bf16, or quantize it",
                        source.path()));
      }
      compute.codes = true;
      compute.name = "int8";
      break;
    case Arithmetic::kBF16:
      compute.precision = MatmulPrecision::kBF16;
      compute.name = "bf16";
      break;
    case Arithmetic::kF32:
      break;
  }
  const int head = options.head.value_or(generates && compute.codes ? 8 : 16);
  if (head != 8 && head != 16)
    throw ArgumentError("head", fmt::format("--head: expected auto, 16 or 8, found {}", head));
  if (head == 8) compute.head = HeadBits::k8;
  const bool floats = !compute.codes && compute.precision == MatmulPrecision::kF32;
  switch (options.kv.value_or(floats ? 32 : 16)) {
    case 32:
      compute.kv = KvType::kF32;
      break;
    case 16:
      break;
    case 8:
      compute.kv = KvType::kI8;
      break;
    default:
      throw ArgumentError("kv", fmt::format("--kv: expected auto, 32, 16 or 8, found {}", *options.kv));
  }
  return compute;
}

}  // namespace metal_marlin
