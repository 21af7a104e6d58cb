// Arithmetic of a model that runs.
#pragma once

#include <cstdint>
#include <optional>

namespace metal_marlin {

// kInt8: linears that are stored as codes are multiplied as they are, with activations in 8 bits; the other linears in
// f32. kBF16, kF32: all linears are turned into floats first.
enum class Arithmetic : uint8_t { kInt8, kBF16, kF32 };

struct ComputeOptions {
  // Empty: what MachineOptions::precision names; where that is empty too, kInt8 for quantized models that generate or
  // are benchmarked, else kF32. ArgumentError where both name an arithmetic, and not the same.
  std::optional<Arithmetic> compute;
  // Bits of the head, which makes the logits. 16: as it is stored; 8: rounded to 8 bits, a scale for each row and group
  // of 32, and multiplied with activations in 8 bits. Empty: 8 for a model that generates with kInt8, else 16.
  std::optional<int> head;
  // Bits of the keys and values of earlier tokens. 16: float16; 8: 8 bits with a scale per token and head; 32: float32.
  // Empty: 32 where the linears are multiplied in f32, else 16. evaluate() keeps none.
  std::optional<int> kv;
};

}  // namespace metal_marlin
