#include "eval/metrics.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "core/threads.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {

// The kernels may lose a NaN beside the largest value. Compared as integers, the largest magnitude shows it.
bool all_finite(const float* x, int64_t n) noexcept {
  constexpr int32_t kMagnitude = 0x7fffffff;
  constexpr int32_t kInfinity = 0x7f800000;
  int32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & kMagnitude);
  return largest < kInfinity;
}

}  // namespace

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
      if (!all_finite(p, vocab)) reference_nll_[at] = std::numeric_limits<double>::quiet_NaN();
    }
    if (!all_finite(q, vocab)) nll_[at] = std::numeric_limits<double>::quiet_NaN();
  });
  const auto refuse = [this](const std::string& name, size_t i) {
    throw NumericError(
        fmt::format("{}: the logits for {} are NaN or infinite: a weight is damaged, or a value inside the model "
                    "exceeds float32; compare the file with its publisher's, or evaluate the model that it was made "
                    "from",
                    name, place_of(i)));
  };
  for (size_t i = first; i < count; ++i) {
    if (reference != nullptr && !std::isfinite(reference_nll_[i])) refuse(reference_, i);
    if (!std::isfinite(nll_[i])) refuse(model_, i);
    if (reference != nullptr && !std::isfinite(kl_[i])) refuse(model_ + " or " + reference_, i);
  }
  for (const uint8_t s : same) same_ += s;
}

std::string Metrics::place_of(size_t position) const {
  const auto at = static_cast<int64_t>(position);
  const auto next = std::upper_bound(chunks_.begin(), chunks_.end(), at);
  if (next == chunks_.begin()) return fmt::format("position {}", at + 1);
  return fmt::format("token {} of chunk {}", at - *std::prev(next) + 2, next - chunks_.begin());
}

double Metrics::perplexity_of(const std::vector<double>& nll, const std::string& name) const {
  double sum = 0;
  for (const double v : nll) sum += v;
  const double mean = sum / static_cast<double>(nll.size());
  const double perplexity = std::exp(mean);
  if (std::isfinite(perplexity)) return perplexity;
  const auto worst = std::max_element(nll.begin(), nll.end());
  throw NumericError(
      fmt::format("{}: the perplexity is too large for a number: -log of a token's probability is {:.4g} on average "
                  "(at most 709 can be shown), and {:.4g} for {}; the model is damaged, or the text is not for its "
                  "tokenizer",
                  name, mean, *worst, place_of(static_cast<size_t>(worst - nll.begin()))));
}

EvaluationRecord Metrics::result() const {
  EvaluationRecord e;
  e.positions = positions();
  if (nll_.empty()) return e;
  const auto n = static_cast<double>(nll_.size());
  e.perplexity.quantized = perplexity_of(nll_, model_);
  if (kl_.size() != nll_.size()) return e;
  e.perplexity.reference = perplexity_of(reference_nll_, reference_);
  double sum = 0;
  for (const double k : kl_) sum += k;
  const double mean = sum / n;
  e.kl_divergence.mean = mean;
  double squares = 0;
  for (const double k : kl_) squares += (k - mean) * (k - mean);
  e.kl_divergence.standard_error = nll_.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  std::vector<double> sorted = kl_;
  const auto rank = std::max<size_t>(1, static_cast<size_t>(0.99 * n)) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(rank), sorted.end());
  e.kl_divergence.p99 = sorted[rank];
  e.top1_agreement = static_cast<double>(same_) / n;
  return e;
}

}  // namespace metal_marlin
