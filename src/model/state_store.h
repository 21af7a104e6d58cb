// The hidden states of many sequences between two blocks: in memory, or in a scratch file where the budget is tight.
// Read and written in batches of whole sequences.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "platform/file.h"

namespace metal_marlin {

class StateStore {
 public:
  struct Batch {
    int64_t first_sequence = 0;
    int64_t first_row = 0;
    int64_t rows = 0;
    std::vector<int64_t> lengths;
  };

  // Batches hold about `batch_tokens` rows, at least one sequence. `scratch`: the scratch file lies in the folder of
  // this path, without a name, and vanishes with the process; empty: memory. `lanes`: how many states of the same
  // sequences there are.
  StateStore(const std::vector<int64_t>& lengths, int64_t hidden, const std::string& scratch, int64_t batch_tokens,
             int64_t lanes = 1);
  StateStore(StateStore&&) noexcept = default;
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  const std::vector<Batch>& batches() const noexcept { return batches_; }
  int64_t rows() const noexcept { return rows_; }  // of a lane
  int64_t hidden() const noexcept { return hidden_; }
  void read_rows(int64_t first, int64_t count, float* out, int64_t lane = 0) const;
  void write_rows(int64_t first, int64_t count, const float* in, int64_t lane = 0);
  // All rows of all lanes where they lie; empty for a scratch file.
  std::span<const float> in_memory() const noexcept { return memory_.values(); }
  Matrix read(const Batch& batch, int64_t lane = 0) const;
  void write(const Batch& batch, const Matrix& states, int64_t lane = 0) {
    write_rows(batch.first_row, batch.rows, states.data(), lane);
  }

 private:
  std::vector<Batch> batches_;
  int64_t rows_ = 0;
  int64_t hidden_ = 0;
  Matrix memory_;
  UniqueFd fd_;
  std::string path_;
};

}  // namespace metal_marlin
