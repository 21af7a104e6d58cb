// Scores the final states of chunks, so that memory holds only a few rows of logits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "eval/metrics.h"
#include "model/model.h"
#include "model/stream.h"

namespace metal_marlin {

// The states that left the last block of a model, and the head that reads them.
struct FinalStates {
  const Head& head;
  const Stream& states;
};

// The logits of some rows of such states at a time.
class LogitRows {
 public:
  // At most `rows` at a time.
  LogitRows(const FinalStates& of, int64_t rows);
  // Logits [count, vocab] of rows first .. first + count - 1 of a lane, valid until the next call.
  const float* at(int64_t first, int64_t count, int64_t lane = 0);
  int64_t vocab_size() const noexcept { return logits_.cols(); }

 private:
  FinalStates of_;
  Matrix states_;
  Matrix logits_;
};

// Rows of final states that belong together: a chunk's, say.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};
// What is measured on rows.
struct RowMeasure {
  std::function<void(size_t range)> begin;                              // before a range's first rows; may be empty
  std::function<void(size_t range, int64_t first, int64_t count)> add;  // rows first .. first + count - 1 of the states
};
// The one loop over rows of final states: range by range, at most `batch` rows at a time.
void measure_rows(std::span<const RowRange> ranges, int64_t batch, const RowMeasure& measure);

// Adds the chunks, whose tokens are the rows of the states in this order, to the metrics. Every position except a
// chunk's first is scored, with the logits of the position before. reference: the same of the other model, or nothing.
// before_chunk is called with the number of chunks that are done and the number of all. ArgumentError when the states
// are of other lengths; errors as Metrics::add().
void score(const FinalStates& model, const std::optional<FinalStates>& reference,
           std::span<const std::vector<int32_t>> chunks, Metrics& metrics,
           const std::function<void(int64_t done, int64_t total)>& before_chunk = {});

}  // namespace metal_marlin
