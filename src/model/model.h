// What stands around the blocks: embedding, final norm and head.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/block.h"
#include "model/row_rounding.h"

namespace metal_marlin {

// Sets states [tokens, hidden] to the embedding's rows times embedding_multiplier. Reads only the rows that occur.
// Throws ArgumentError when an id is outside 0..vocab_size-1.
void embed(const ModelSource& source, std::span<const int32_t> ids, Matrix& states, const RowRounding& rounding = {});

enum class HeadBits : uint8_t {
  kStored,  // as it is stored, in 16 or 32 bits
  // The codes of a GGUF's blocks as they are; else rounded to 8 bits, a scale for each row and group of 32. Multiplied
  // with activations in 8 bits.
  k8,
};

// Final norm, head and soft-capping. It holds the head [vocab, hidden] in its stored 16-bit type where it has one; with
// kBF16, packed in bf16; with HeadBits::k8, as codes; with a rounding, in float32.
class Head {
 public:
  explicit Head(const ModelSource& source, MatmulPrecision precision = MatmulPrecision::kF32,
                HeadBits bits = HeadBits::kStored, const RowRounding& rounding = {});
  ~Head();
  // What the head's matrix takes in memory, unpacked.
  static uint64_t bytes(const ModelSource& source, HeadBits bits);
  int64_t vocab_size() const noexcept;
  // Computes the logits [rows, vocab] of states [rows, hidden], which are taken before the final norm. Many rows:
  // Interrupted as set_interrupt_check() says.
  void logits(const float* states, int64_t rows, float* out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin
