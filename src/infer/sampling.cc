#include "infer/sampling.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "infer/bad_logits.h"
#include "options/tables.h"

namespace metal_marlin {
namespace {

// exp(-40) of the largest probability, times the size of any vocabulary, is below the rounding error of a sum in
// double.
constexpr float kNegligible = 40.0f;

bool more_likely(const TokenProbability& a, const TokenProbability& b) noexcept {
  return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
}

float largest_logit(std::span<const float> logits, const std::string& model) {
  float largest = -std::numeric_limits<float>::infinity();
  bool nan = false;
  for (const float l : logits) {
    nan |= std::isnan(l);
    largest = l > largest ? l : largest;
  }
  if (nan || !std::isfinite(largest)) throw BadLogits(model);
  return largest;
}

}  // namespace

SamplingOptions sampling_options(const GenerateOptions& o) {
  generate_options().check_ranges(o);
  return {o.temp, o.top_k, o.top_p, o.min_p, o.repeat_penalty, o.repeat_last_n};
}

Sampler::Sampler(const SamplingOptions& options, std::string model) : options_(options), model_(std::move(model)) {
  assert(options.temp >= 0 && options.top_k >= 0 && options.top_p > 0 && options.min_p >= 0 &&
         options.repeat_penalty > 0 && options.repeat_last_n >= -1);
}

void Sampler::penalize(std::span<const int32_t> history) {
  const auto n = options_.repeat_last_n < 0 ? history.size()
                                            : std::min(history.size(), static_cast<size_t>(options_.repeat_last_n));
  std::unordered_set<int32_t> seen;
  const auto penalty = static_cast<float>(options_.repeat_penalty);
  for (const int32_t token : history.last(n)) {
    if (token < 0 || static_cast<size_t>(token) >= logits_.size() || !seen.insert(token).second) continue;
    float& l = logits_[static_cast<size_t>(token)];
    l = l > 0 ? l / penalty : l * penalty;
  }
}

std::span<const TokenProbability> Sampler::distribution(std::span<const float> logits,
                                                        std::span<const int32_t> history) {
  if (options_.repeat_penalty != 1.0 && options_.repeat_last_n != 0) {
    logits_.assign(logits.begin(), logits.end());
    penalize(history);
    logits = logits_;
  }
  const float largest = largest_logit(logits, model_);
  candidates_.clear();
  if (options_.temp == 0) {
    const auto best = std::find(logits.begin(), logits.end(), largest) - logits.begin();
    candidates_.push_back({static_cast<int32_t>(best), 1.0});
    return candidates_;
  }
  // Top-p and min-p both keep the first of the candidates in falling order, so what min-p drops need not be sorted. The
  // mass that top-p refers to is summed over everything that top-k leaves.
  const bool top_k = options_.top_k > 0 && options_.top_k < static_cast<int64_t>(logits.size());
  float floor = std::numeric_limits<float>::lowest();
  if (!top_k) {
    const double tail = kNegligible * std::max(1.0, options_.temp);
    floor = static_cast<float>(largest - tail);
    if (options_.min_p > 0) floor = std::max(floor, static_cast<float>(largest + std::log(options_.min_p) - 1e-3));
  }
  candidates_.reserve(logits.size());  // once: grown in steps, the heap would keep each smaller block
  double mass = 0;
  const bool need_mass = options_.top_p < 1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!top_k && need_mass && logits[i] > largest - kNegligible)
      mass += std::exp(static_cast<double>(logits[i] - largest));
    if (logits[i] >= floor) candidates_.push_back({static_cast<int32_t>(i), static_cast<double>(logits[i] - largest)});
  }
  if (top_k && options_.top_k < static_cast<int64_t>(candidates_.size())) {
    const auto middle = candidates_.begin() + options_.top_k;
    std::nth_element(candidates_.begin(), middle - 1, candidates_.end(), more_likely);
    candidates_.erase(middle, candidates_.end());
  }
  std::sort(candidates_.begin(), candidates_.end(), more_likely);
  if (top_k) {
    for (const TokenProbability& c : candidates_) mass += std::exp(c.probability);
  }
  size_t keep = candidates_.size();
  if (options_.top_p < 1) {
    double sum = 0;
    for (size_t i = 0; i < keep; ++i) {
      sum += std::exp(candidates_[i].probability);
      if (sum >= options_.top_p * mass) keep = i + 1;
    }
  }
  if (options_.min_p > 0) {
    size_t i = 1;
    while (i < keep && std::exp(candidates_[i].probability) >= options_.min_p) ++i;
    keep = i;
  }
  candidates_.resize(keep);
  double total = 0;
  for (TokenProbability& c : candidates_) total += c.probability = std::exp(c.probability / options_.temp);
  for (TokenProbability& c : candidates_) c.probability /= total;
  return candidates_;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history, Random& random) {
  const auto candidates = distribution(logits, history);
  if (candidates.size() == 1) {
    if (options_.temp > 0) random.next();
    return candidates.front().token;
  }
  double u = random.uniform();
  for (const TokenProbability& c : candidates) {
    u -= c.probability;
    if (u < 0) return c.token;
  }
  return candidates.back().token;  // u was within rounding of 1
}

}  // namespace metal_marlin
