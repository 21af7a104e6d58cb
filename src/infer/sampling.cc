#include "infer/sampling.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "infer/bad_logits.h"

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
  SamplingOptions result{o.temp, o.top_k, o.top_p, o.min_p, o.repeat_penalty, o.repeat_last_n};
  check(result);
  return result;
}

void check(const SamplingOptions& o) {
  if (!(o.temp >= 0 && o.temp <= 1e6)) throw ArgumentError(fmt::format("temp {}: expected a number >= 0", o.temp));
  if (o.top_k < 0) throw ArgumentError(fmt::format("top_k {}: expected a number >= 0, 0 turns it off", o.top_k));
  if (!(o.top_p > 0 && o.top_p <= 1))
    throw ArgumentError(fmt::format("top_p {}: expected a number in (0, 1]", o.top_p));
  if (!(o.min_p >= 0 && o.min_p <= 1))
    throw ArgumentError(fmt::format("min_p {}: expected a number in [0, 1]", o.min_p));
  if (!(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty))) {
    throw ArgumentError(fmt::format("repeat_penalty {}: expected a number > 0, 1 turns it off", o.repeat_penalty));
  }
  if (o.repeat_last_n < -1)
    throw ArgumentError(fmt::format("repeat_last_n {}: expected a number >= -1", o.repeat_last_n));
}

std::string ignored_sampling_warning(const GenerateOptions& o) {
  const GenerateOptions defaults;
  std::vector<std::string> parts;
  std::vector<std::string> names;
  const auto add = [&](const char* name, bool changed, bool off) {
    const bool given = std::find(o.given.begin(), o.given.end(), name) != o.given.end();
    if ((given || changed) && !off) names.push_back(std::string("--") + name);
  };
  const auto finish = [&](const char* reason) {
    if (!names.empty()) parts.push_back(fmt::format("{} ({})", fmt::join(names, ", "), reason));
    names.clear();
  };
  if (o.temp == 0 || o.top_k == 1) {
    if (o.temp == 0) {
      add("top-k", o.top_k != defaults.top_k, o.top_k == 0);
    } else {
      add("temp", o.temp != defaults.temp, false);
    }
    add("top-p", o.top_p != defaults.top_p, o.top_p == 1);
    add("min-p", o.min_p != defaults.min_p, o.min_p == 0);
    add("seed", o.seed != defaults.seed, false);
    finish(o.temp == 0 ? "--temp 0 always takes the likeliest token" : "--top-k 1 leaves the likeliest token alone");
  }
  if (o.repeat_penalty == 1) {
    add("repeat-last-n", o.repeat_last_n != defaults.repeat_last_n, o.repeat_last_n == 0);
    finish("--repeat-penalty 1 punishes nothing");
  } else if (o.repeat_last_n == 0) {
    add("repeat-penalty", true, false);
    finish("--repeat-last-n 0 looks back on no token");
  }
  return parts.empty() ? std::string() : fmt::format("without effect: {}", fmt::join(parts, ", "));
}

Sampler::Sampler(const SamplingOptions& options, std::string model) : options_(options), model_(std::move(model)) {
  check(options);
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
