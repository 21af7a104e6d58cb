// One transformer block in float32: weights and the forward pass over many sequences at once, with a hook at every
// linear's input. One code path serves all families; the differences are in ModelConfig and Family.
#pragma once

#include <metal_marlin/options.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "families/config/model_config.h"
#include "families/family.h"

namespace metal_marlin {

class ModelSource;

struct Linear {
  Matrix weight;            // [out_features, in_features]
  std::vector<float> bias;  // [out_features] or empty
};

struct Block {
  std::array<Linear, kLinears> linears;          // by LinearKind
  std::array<std::vector<float>, kNorms> norms;  // by NormKind, as stored (offset norms without the 1); empty: none

  Linear& linear(LinearKind kind) noexcept { return linears[static_cast<size_t>(kind)]; }
  const Linear& linear(LinearKind kind) const noexcept { return linears[static_cast<size_t>(kind)]; }
  std::vector<float>& norm(NormKind kind) noexcept { return norms[static_cast<size_t>(kind)]; }
  const std::vector<float>& norm(NormKind kind) const noexcept { return norms[static_cast<size_t>(kind)]; }
  Block clone() const;
};

// Loads and checks the weights of a layer. Throws NumericError naming the tensor for NaN or Inf.
Block load_block(const ModelSource& source, int64_t layer);

// Keys and values of earlier positions, per layer, for generation.
class KvCache;

// Called with the values x [rows, features] of a linear input, batch by batch in increasing row order, on the thread
// that called run(). x is valid only during the call.
using InputHook = std::function<void(LinearInput input, const float* x, int64_t rows, int64_t features)>;

// A block in the form that the matrix products need: packed weights of the chosen precision, and copies of its norms
// and biases. Keep one where the same block runs many times, as in generation. It is immutable, so threads may share
// it.
class PreparedBlock;

// Runs blocks. run() overwrites states [sum of lengths, hidden_size], the rows of one sequence after another, with the
// block's output. lengths are the tokens of each sequence; each sequence attends only to itself. Positions start at 0,
// or at the cache's length where there is a cache. Work goes in batches of whole sequences of about kBatchTokens
// tokens, to bound the scratch memory. The result depends neither on the number of threads nor on other sequences.
class BlockForward {
 public:
  BlockForward(const Family& family, const ModelConfig& config, MatmulPrecision precision = MatmulPrecision::kF32);
  ~BlockForward();
  void run(int64_t layer, const Block& block, Matrix& states, std::span<const int64_t> lengths,
           const InputHook& hook = {}, KvCache* cache = nullptr);
  // The same with a prepared block. Both throw ArgumentError when states, lengths or cache contradict each other.
  void run(int64_t layer, const PreparedBlock& block, Matrix& states, std::span<const int64_t> lengths,
           const InputHook& hook = {}, KvCache* cache = nullptr);
  // The result takes as many bytes as the block in f32, half as many in bf16. It does not refer to `block`.
  std::shared_ptr<const PreparedBlock> prepare(const Block& block) const;
  // What is used: kBF16 (inputs in bf16, sums in f32) only where the machine has such products, else kF32.
  MatmulPrecision precision() const noexcept;
  static constexpr int64_t kBatchTokens = 4096;
  // Returns the floating-point operations of one layer's products over sequences of these lengths: 2 per multiplication
  // and addition. For attention it counts the keys that a position sees.
  double operations(int64_t layer, std::span<const int64_t> lengths) const;
  // Bytes of scratch that run() needs for sequences of at most `length` tokens, with the packed block of run(Block)
  // where `packs`.
  uint64_t scratch_bytes(int64_t length, bool packs = true) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin
