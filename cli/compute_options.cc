#include "compute_options.h"

namespace metal_marlin::cli {

void add_compute_options(Command& command, ComputeOptions& options, bool generates) {
  command.choice(
      "--compute", options.compute, {"auto", "int8", "bf16", "f32"},
      generates ? "Arithmetic of the linears; int8: quantized ones as they are stored, with activations in 8 bits; "
                  "bf16, f32: all turned into floats first; auto: int8 for quantized models, else f32"
                : "Arithmetic of the model's linears; int8: quantized ones as they are stored, with activations in "
                  "8 bits, as generate and chat do; bf16, f32: all turned into floats first; auto: as --precision "
                  "says");
  command.choice("--head", options.head, {"auto", "16", "8"},
                 generates ? "Bits of the head, which makes the probabilities of the tokens; auto: 8 with int8, else 16"
                           : "Bits of the head, which makes the probabilities of the tokens; auto: 16");
  if (generates) {
    command.choice("--kv", options.kv, {"auto", "32", "16", "8"},
                   "Bits of the keys and values of earlier tokens; auto: 32 with --compute f32, else 16");
  }
}

}  // namespace metal_marlin::cli
