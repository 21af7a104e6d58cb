// The figures of an evaluation from logits, in float64 with plain loops, written from the formulas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace metal_marlin::plain {

struct Scores {
  double perplexity = 0;
  double reference_perplexity = 0;
  double kl_mean = 0;
  double kl_standard_error = 0;
  double kl_p99 = 0;
  double top1 = 0;
  int64_t positions = 0;
};

inline std::vector<double> log_softmax(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(x[i] - top - std::log(sum));
  return out;
}

// logits, reference [chunks, length, vocab] of ids [chunks, length]; every position but a chunk's first is scored, by
// the logits of the position before it.
inline Scores scores_of(const float* logits, const float* reference, const int32_t* ids, int64_t chunks, int64_t length,
                        int64_t vocab) {
  Scores s;
  double nll = 0;
  double reference_nll = 0;
  std::vector<double> kl;
  for (int64_t c = 0; c < chunks; ++c) {
    for (int64_t t = 0; t + 1 < length; ++t) {
      const int64_t row = (c * length + t) * vocab;
      const auto target = static_cast<size_t>(ids[c * length + t + 1]);
      const auto q = log_softmax(logits + row, vocab);
      const auto p = log_softmax(reference + row, vocab);
      nll -= q[target];
      reference_nll -= p[target];
      double sum = 0;
      for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
      kl.push_back(sum);
      s.top1 +=
          std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin() ? 1 : 0;
    }
  }
  const auto n = static_cast<double>(kl.size());
  s.positions = static_cast<int64_t>(kl.size());
  s.perplexity = std::exp(nll / n);
  s.reference_perplexity = std::exp(reference_nll / n);
  s.top1 /= n;
  for (const double k : kl) s.kl_mean += k / n;
  double variance = 0;
  for (const double k : kl) variance += (k - s.kl_mean) * (k - s.kl_mean) / (n - 1);
  s.kl_standard_error = std::sqrt(variance / n);
  std::sort(kl.begin(), kl.end());
  s.kl_p99 = kl[static_cast<size_t>(std::floor(0.99 * n)) - 1];
  return s;
}

}  // namespace metal_marlin::plain
