// Which sequences of a pool to calibrate on: those that together cover the channels of the activations best.
//
// A sequence i is described by its profile a_ik >= 0, the largest square of channel k of some inputs over its tokens:
// averages over hundreds of tokens are much alike, what is rare is not.
// What a set S covers is
//   f(S) = sum over k of log(1 + sum over i in S of a_ik / m_k),   m_k: the mean of a_ik over the pool.
// A channel that S excites strongly counts, and each further sequence that excites the same one counts for less: f is
// the logarithm of the determinant of I + D / m, D the diagonal matrix of the sums (a D-optimal design), monotone and
// submodular. So the greedy choice reaches 1 - 1/e of the best value at least (Nemhauser, Wolsey, Fisher 1978), 1/2
// under quotas (Fisher, Nemhauser, Wolsey 1978), and a gain computed earlier bounds the gain now: most need not be
// computed anew (Minoux 1978).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

// Fills the profiles of a pool's sequences, input after input, as they pass through some blocks.
class ProfileCollector {
 public:
  // `features`: input channels of all inputs of one block, `blocks` of which will be seen; `lengths`: of the sequences.
  ProfileCollector(const std::vector<int64_t>& lengths, int64_t features, int64_t blocks);
  // The hook for states whose first row belongs to `first_sequence` and which hold whole sequences; inputs and
  // blocks come in the same order for all of them, begin_block() before each batch of each block. NumericError for NaN
  // or Inf.
  void begin_block(int64_t block, int64_t first_sequence);
  void add(LinearInput input, const float* x, int64_t rows, int64_t features);
  const Matrix& profiles() const noexcept { return profiles_; }  // [sequences, blocks * features]
  static uint64_t bytes(int64_t sequences, int64_t features, int64_t blocks);

 private:
  std::vector<int64_t> lengths_;
  int64_t features_;
  int64_t block_ = 0;
  struct Cursor {
    int64_t sequence = 0;
    int64_t row = 0;      // of that sequence
    int64_t offset = -1;  // of the input's channels in the block's; -1: not met in this batch
  };
  std::array<Cursor, kLinearInputs> cursors_;
  int64_t first_sequence_ = 0;
  int64_t next_offset_ = 0;
  Matrix profiles_;
};

struct Selection {
  std::vector<int64_t> sequences;  // in the order of their choice
  double coverage = 0;             // f of them
  double pool_coverage = 0;        // f of the whole pool
};

// The greedy choice of `count` rows of `profiles` [sequences, channels]. `group` [sequences] and `quota`: at most
// quota[g] of the sequences with group[i] == g, the quotas summing up to `count`; empty: no groups. Equal gains: the
// earlier sequence. Does not depend on the number of threads. ArgumentError when count exceeds the rows or a quota its
// group.
Selection select_sequences(const Matrix& profiles, int64_t count, std::span<const int64_t> group = {},
                           std::span<const int64_t> quota = {});

// f of the given rows, in float64.
double coverage(const Matrix& profiles, std::span<const int64_t> rows);

}  // namespace metal_marlin
