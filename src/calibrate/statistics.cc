#include "calibrate/statistics.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/linear_algebra.h"

namespace metal_marlin {

void StatsCollector::add(Tap tap, const float* x, int64_t rows, int64_t features) {
  Sums& s = sums_[static_cast<size_t>(tap)];
  if (s.features == 0) {
    s.features = features;
    s.absolute.assign(static_cast<size_t>(features), 0);
    s.square.assign(static_cast<size_t>(features), 0);
    s.max.assign(static_cast<size_t>(features), 0);
    if (gram_) s.gram = Matrix(features, features);
  } else if (s.features != features) {
    throw ArgumentError(fmt::format("tap {}: expected {} features, got {}", tap_name(tap), s.features, features));
  }
  accumulate_stats(x, rows, features, s.absolute.data(), s.max.data(), s.square.data());
  if (gram_) gram_accumulate(x, rows, features, s.gram);
  s.tokens += static_cast<uint64_t>(rows);
}

std::array<ActivationStats, kTaps> StatsCollector::finish() {
  std::array<ActivationStats, kTaps> out;
  for (int t = 0; t < kTaps; ++t) {
    Sums& s = sums_[static_cast<size_t>(t)];
    ActivationStats& a = out[static_cast<size_t>(t)];
    if (s.tokens == 0) continue;
    a.in_features = s.features;
    a.tokens = s.tokens;
    const auto n = static_cast<double>(s.tokens);
    for (size_t k = 0; k < s.max.size(); ++k) {
      // A NaN or Inf anywhere in a channel makes its sum of squares NaN or Inf.
      if (!std::isfinite(s.square[k])) {
        throw NumericError(fmt::format("tap {}: channel {} of the activations is NaN or Inf (after {} tokens)", tap_name(static_cast<Tap>(t)), k, s.tokens));
      }
      a.mean.push_back(static_cast<float>(s.absolute[k] / n));
      a.rms.push_back(static_cast<float>(std::sqrt(s.square[k] / n)));
    }
    a.max = std::move(s.max);
    if (gram_) {
      gram_finish(s.gram, s.tokens);
      a.gram = std::move(s.gram);
    }
    s = Sums{};
  }
  return out;
}

}  // namespace metal_marlin
