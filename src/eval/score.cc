#include "eval/score.h"

#include <algorithm>
#include <vector>

namespace metal_marlin {
namespace {

// The number of rows of logits at a time: 32 MiB of them, but 32 to 256 rows, with which the matrix product is fast.
int64_t batch_rows(int64_t vocab) {
  return std::clamp<int64_t>((int64_t{1} << 23) / vocab, 32, 256);
}

}  // namespace

void score(const Head& head, const Matrix& states, const Head* reference_head, const Matrix* reference,
           std::span<const std::vector<int32_t>> chunks, Metrics& metrics,
           const std::function<void(int64_t, int64_t)>& on_chunk) {
  const int64_t vocab = head.vocab_size();
  const int64_t rows = batch_rows(vocab);
  const int64_t hidden = states.cols();
  Matrix logits(rows, vocab);
  Matrix reference_logits(reference != nullptr ? rows : 0, vocab);
  int64_t first = 0;
  int64_t done = 0;
  for (const auto& chunk : chunks) {
    const auto scored = static_cast<int64_t>(chunk.size()) - 1;
    metrics.begin_chunk();
    for (int64_t at = 0; at < scored; at += rows) {
      const int64_t n = std::min(rows, scored - at);
      head.logits(states.data() + (first + at) * hidden, n, logits.data());
      if (reference != nullptr) {
        reference_head->logits(reference->data() + (first + at) * reference->cols(), n, reference_logits.data());
      }
      metrics.add(logits.data(), reference != nullptr ? reference_logits.data() : nullptr, chunk.data() + at + 1, n,
                  vocab);
    }
    first += static_cast<int64_t>(chunk.size());
    if (on_chunk) on_chunk(++done, static_cast<int64_t>(chunks.size()));
  }
}

}  // namespace metal_marlin
