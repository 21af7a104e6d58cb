// Arithmetic of a model that runs.
#pragma once

#include <string>

namespace metal_marlin {

struct ComputeOptions {
  // "int8": linears that are stored as codes are multiplied as they are, with activations in 8 bits; the other linears
  // in f32. "bf16", "f32": all linears are turned into floats first. "auto": what MachineOptions::precision names;
  // where that is auto too, int8 for quantized models that generate or are benchmarked, else f32. ArgumentError where
  // both name an arithmetic, and not the same.
  std::string compute = "auto";
  // Bits of the head, which makes the logits. "16": as it is stored; "8": rounded to 8 bits, a scale for each row and
  // group of 32, and multiplied with activations in 8 bits. "auto": 8 for a model that generates with int8, else 16.
  std::string head = "auto";
  // Bits of the keys and values of earlier tokens. "16": float16; "8": 8 bits with a scale per token and head; "32":
  // float32. "auto": 32 where the linears are multiplied in f32, else 16. evaluate() keeps none.
  std::string kv = "auto";
};

}  // namespace metal_marlin
