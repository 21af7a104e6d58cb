#include "eval/score.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <vector>

namespace metal_marlin {
namespace {

// The number of rows of logits at a time: 32 MiB of them, but 32 to 256 rows, with which the matrix product is fast.
int64_t batch_rows(int64_t vocab) {
  return std::clamp<int64_t>((int64_t{1} << 23) / vocab, 32, 256);
}

void check_rows(const Stream& states, std::span<const std::vector<int32_t>> chunks) {
  int64_t tokens = 0;
  for (const auto& chunk : chunks) tokens += static_cast<int64_t>(chunk.size());
  if (tokens == states.rows()) return;
  throw ArgumentError(fmt::format("score: expected the states of {} tokens, found {}", tokens, states.rows()));
}

}  // namespace

LogitRows::LogitRows(const FinalStates& of, int64_t rows)
    : of_(of), states_(rows, of.states.hidden()), logits_(rows, of.head.vocab_size()) {}

const float* LogitRows::at(int64_t first, int64_t count, int64_t lane) {
  of_.states.read_rows(first, count, states_.data(), lane);
  of_.head.logits(states_.data(), count, logits_.data());
  return logits_.data();
}

void measure_rows(std::span<const RowRange> ranges, int64_t batch, const RowMeasure& measure) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (measure.begin) measure.begin(i);
    const int64_t end = ranges[i].first + ranges[i].count;
    for (int64_t at = ranges[i].first; at < end; at += batch) measure.add(i, at, std::min(batch, end - at));
  }
}

void score(const FinalStates& model, const std::optional<FinalStates>& reference,
           std::span<const std::vector<int32_t>> chunks, Metrics& metrics,
           const std::function<void(int64_t, int64_t)>& before_chunk) {
  check_rows(model.states, chunks);
  if (reference) check_rows(reference->states, chunks);
  const int64_t vocab = model.head.vocab_size();
  const int64_t rows = batch_rows(vocab);
  LogitRows logits(model, rows);
  std::optional<LogitRows> reference_logits;
  if (reference) reference_logits.emplace(*reference, rows);
  std::vector<RowRange> scored;
  int64_t first = 0;
  for (const auto& chunk : chunks) {
    scored.push_back({first, std::ssize(chunk) - 1});
    first += std::ssize(chunk);
  }
  const auto begin = [&](size_t i) {
    if (before_chunk) before_chunk(static_cast<int64_t>(i), std::ssize(chunks));
    metrics.begin_chunk();
  };
  const auto add = [&](size_t i, int64_t at, int64_t n) {
    metrics.add(logits.at(at, n), reference_logits ? reference_logits->at(at, n) : nullptr,
                chunks[i].data() + (at - scored[i].first) + 1, n, vocab);
  };
  measure_rows(scored, rows, {begin, add});
}

}  // namespace metal_marlin
