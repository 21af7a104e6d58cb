#include "eval/metrics.h"

#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "kernels/dispatch.h"

namespace metal_marlin {

void Metrics::add(const float* logits, const float* reference, const int32_t* targets, int64_t rows, int64_t vocab) {
  const size_t first = nll_.size();
  const auto count = first + static_cast<size_t>(rows);
  nll_.resize(count);
  if (reference != nullptr) {
    reference_nll_.resize(count);
    kl_.resize(count);
  }
  std::vector<uint8_t> same(static_cast<size_t>(rows));
  const KernelTable& table = kernels();
  parallel_for(rows, [&](int64_t r) {
    const float* q = logits + r * vocab;
    const size_t at = first + static_cast<size_t>(r);
    const auto target = static_cast<size_t>(targets[r]);
    if (reference == nullptr) {
      int64_t top = 0;
      nll_[at] = table.log_sum_exp(q, vocab, &top) - static_cast<double>(q[target]);
    } else {
      const float* p = reference + r * vocab;
      const LogitRowStats stats = table.logit_row_stats(p, q, vocab);
      nll_[at] = stats.log_sum_q - static_cast<double>(q[target]);
      reference_nll_[at] = stats.log_sum_p - static_cast<double>(p[target]);
      kl_[at] = stats.kl;
      same[static_cast<size_t>(r)] = stats.argmax_p == stats.argmax_q ? 1 : 0;
    }
  });
  for (size_t i = first; i < count; ++i) {
    if (!std::isfinite(nll_[i])) throw NumericError("the model's logits are NaN or Inf");
    if (reference != nullptr && !std::isfinite(reference_nll_[i]))
      throw NumericError("the reference's logits are NaN or Inf");
    if (reference != nullptr && !std::isfinite(kl_[i]))
      throw NumericError("the logits of the model or of the reference are NaN or Inf");
  }
  for (const uint8_t s : same) same_ += s;
}

Evaluation Metrics::result() const {
  Evaluation e;
  e.positions = positions();
  if (nll_.empty()) return e;
  const auto n = static_cast<double>(nll_.size());
  const auto mean = [n](const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum / n;
  };
  e.perplexity = std::exp(mean(nll_));
  e.has_reference = kl_.size() == nll_.size();
  if (!e.has_reference) return e;
  e.reference_perplexity = std::exp(mean(reference_nll_));
  e.kl_mean = mean(kl_);
  double squares = 0;
  for (const double k : kl_) squares += (k - e.kl_mean) * (k - e.kl_mean);
  e.kl_standard_error = nll_.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  std::vector<double> sorted = kl_;
  const auto rank = std::max<size_t>(1, static_cast<size_t>(0.99 * n)) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(rank), sorted.end());
  e.kl_p99 = sorted[rank];
  e.top1_agreement = static_cast<double>(same_) / n;
  return e;
}

}  // namespace metal_marlin
