// Chooses the sequences of a pool to calibrate on: those that together cover the channels of the activations best.
//
// A sequence i is described by its profile: a_ik >= 0 is the largest square of channel k over the sequence's tokens.
// (Averages over hundreds of tokens are much alike in all sequences; largest values are not.) A set S covers
//   f(S) = sum over k of log(1 + sum over i in S of a_ik / m_k),   m_k: the mean of a_ik over the pool.
// A channel that S excites strongly counts, and each further sequence that excites the same channel counts for less. f
// is the logarithm of the determinant of I + D / m, where D is the diagonal matrix of the sums (a D-optimal design). It
// is monotone and submodular. So the greedy choice reaches at least 1 - 1/e of the best value (Nemhauser, Wolsey,
// Fisher 1978), or 1/2 under quotas (Fisher, Nemhauser, Wolsey 1978). A gain computed earlier bounds the gain now, so
// most gains need not be computed again (Minoux 1978).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

// Fills the profiles of a pool's sequences, input after input, while they pass through the blocks.
class ProfileCollector {
 public:
  // `lengths`: tokens of each sequence. `features`: channels of all linear inputs of one block together. `blocks`: how
  // many blocks will be seen.
  ProfileCollector(const std::vector<int64_t>& lengths, int64_t features, int64_t blocks);
  // Call begin_block() before each batch of each block, then add() as the input hook of the batch. The batch must hold
  // whole sequences, the first of which is `first_sequence`; all sequences may be one batch. All batches must pass
  // inputs and blocks in the same order.
  // add() throws NumericError for NaN or Inf.
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
    int64_t offset = -1;  // of the input's channels among those of the block; -1: not yet seen in this batch
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

// Chooses `count` rows of `profiles` [sequences, channels] greedily. With `group` [sequences] and `quota`, at most
// quota[g] of the sequences with group[i] == g are chosen; the quotas must add up to `count`. Both empty: no groups. Of
// equal gains the earlier sequence wins. The choice does not depend on the number of threads. Throws ArgumentError when
// count exceeds the number of rows, or a quota the size of its group.
Selection select_sequences(const Matrix& profiles, int64_t count, std::span<const int64_t> group = {},
                           std::span<const int64_t> quota = {});

// f of the given rows, in float64.
double coverage(const Matrix& profiles, std::span<const int64_t> rows);

}  // namespace metal_marlin
