#include "eval/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr double kNegligible = 0.005;

}  // namespace

void Divergence::set_reference(const float* logits, int64_t vocab) {
  index_.clear();
  share_.clear();
  logit_.clear();
  const float top = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v] - top));
  for (int64_t v = 0; v < vocab; ++v) {
    const double p = std::exp(static_cast<double>(logits[v] - top)) / sum;
    if (p * static_cast<double>(vocab) < kNegligible) continue;
    index_.push_back(v);
    share_.push_back(p);
    logit_.push_back(logits[v]);
  }
  double kept = 0;
  for (const double p : share_) kept += p;
  for (double& p : share_) p /= kept;
}

double Divergence::operator()(const float* logits) const {
  constexpr double kLargestExponent = 600;  // e^709 is the largest float64
  double mean = 0;
  double largest = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < index_.size(); ++i) {
    const double d = static_cast<double>(logits[index_[i]]) - logit_[i];
    mean += share_[i] * d;
    largest = std::max(largest, d);
  }
  if (!std::isfinite(mean)) return mean;
  double sum = 0;
  if (largest - mean > kLargestExponent) {
    for (size_t i = 0; i < index_.size(); ++i)
      sum += share_[i] * std::exp(static_cast<double>(logits[index_[i]]) - logit_[i] - largest);
    return largest - mean + std::log(sum);
  }
  for (size_t i = 0; i < index_.size(); ++i) {
    sum += share_[i] * std::expm1(static_cast<double>(logits[index_[i]]) - logit_[i] - mean);
  }
  return std::max(0.0, std::log1p(sum));
}

std::vector<LaneDivergence> lane_divergences(const FinalStates& model, int64_t lanes,
                                             const std::function<void(int64_t, int64_t)>& refuse,
                                             const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t rows = model.states.rows();
  LogitRows logit_rows(model, kDivergenceRows);
  const int64_t vocab = logit_rows.vocab_size();
  std::vector<Divergence> divergence(kDivergenceRows);
  std::vector<double> kl(kDivergenceRows);
  std::vector<LaneDivergence> sums(static_cast<size_t>(lanes));
  const auto add = [&](size_t, int64_t at, int64_t n) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      if (progress) progress(at * lanes + lane, rows * lanes);
      const float* logits = logit_rows.at(at, n, lane);
      parallel_for(n, [&](int64_t i) {
        const auto row = static_cast<size_t>(i);
        if (lane == 0) {
          divergence[row].set_reference(logits + i * vocab, vocab);
        } else {
          kl[row] = divergence[row](logits + i * vocab);
        }
      });
      if (lane == 0) continue;
      LaneDivergence& sum = sums[static_cast<size_t>(lane)];
      for (int64_t i = 0; i < n; ++i) {
        const double value = kl[static_cast<size_t>(i)];
        if (!std::isfinite(value)) refuse(lane, at + i);
        sum.mean += value;
        sum.mean_square += value * value;
      }
    }
  };
  const RowRange all{0, rows};
  measure_rows({&all, 1}, kDivergenceRows, {{}, add});
  for (LaneDivergence& sum : sums) {
    sum.mean /= static_cast<double>(rows);
    sum.mean_square /= static_cast<double>(rows);
  }
  return sums;
}

}  // namespace metal_marlin
