#include "statistics/statistics.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/counted.h"
#include "kernels/dispatch.h"
#include "kernels/linear_algebra.h"

namespace metal_marlin {

StatsCollector::StatsCollector(bool gram, MatmulPrecision precision, std::vector<int64_t> lengths, int64_t last)
    : gram_(gram),
      precision_(precision),
      lengths_(std::move(lengths)),
      last_sequences_(last),
      last_row_(std::numeric_limits<int64_t>::max()) {
  if (last < 0 || last > static_cast<int64_t>(lengths_.size())) {
    throw ArgumentError(
        fmt::format("statistics of the last sequences: expected at most {}, found {}", lengths_.size(), last));
  }
  if (last > 0) last_row_ = std::accumulate(lengths_.begin(), lengths_.end() - last, int64_t{0});
}

void StatsCollector::add(LinearInput input, const float* x, int64_t rows, int64_t features) {
  Sums& s = sums_[static_cast<size_t>(input)];
  if (s.features == 0) {
    s.features = features;
    s.absolute.assign(static_cast<size_t>(features), 0);
    s.square.assign(static_cast<size_t>(features), 0);
    s.max.assign(static_cast<size_t>(features), 0);
    if (gram_) s.gram = Matrix(features, features);
    if (gram_ && last_sequences_ > 0) s.last_gram = Matrix(features, features);
  } else if (s.features != features) {
    throw ArgumentError(fmt::format("input {}: expected {} features, got {}", input_name(input), s.features, features));
  }
  accumulate_stats(x, rows, features, s.absolute.data(), s.max.data(), s.square.data());
  if (gram_) add_gram(s, x, rows);
  if (!lengths_.empty()) keep_first_rows(s, x, rows);
  s.tokens += static_cast<uint64_t>(rows);
}

void StatsCollector::add_gram(Sums& s, const float* x, int64_t rows) {
  const int64_t before = std::clamp<int64_t>(last_row_ - static_cast<int64_t>(s.tokens), 0, rows);
  if (before > 0) gram_accumulate(x, before, s.features, s.gram, precision_);
  if (before < rows) gram_accumulate(x + before * s.features, rows - before, s.features, s.last_gram, precision_);
}

void StatsCollector::keep_first_rows(Sums& s, const float* x, int64_t rows) {
  for (int64_t row = 0; row < rows;) {
    if (s.sequence >= lengths_.size()) throw ArgumentError("statistics: more rows than the sequences have");
    if (s.place == 0 && lengths_[s.sequence] > 0)
      s.first.insert(s.first.end(), x + row * s.features, x + (row + 1) * s.features);
    const int64_t take = std::min(rows - row, lengths_[s.sequence] - s.place);
    row += take;
    s.place += take;
    if (s.place == lengths_[s.sequence]) {
      ++s.sequence;
      s.place = 0;
    }
  }
}

std::array<ActivationStats, kLinearInputs> StatsCollector::finish(const std::function<std::string(LinearInput)>& name) {
  std::array<ActivationStats, kLinearInputs> out;
  for (int t = 0; t < kLinearInputs; ++t) {
    Sums& s = sums_[static_cast<size_t>(t)];
    ActivationStats& a = out[static_cast<size_t>(t)];
    if (s.tokens == 0) continue;
    a.in_features = s.features;
    a.tokens = s.tokens;
    const auto n = static_cast<double>(s.tokens);
    for (size_t k = 0; k < s.max.size(); ++k) {
      // A NaN or Inf anywhere in a channel makes its sum of squares NaN or Inf.
      if (!std::isfinite(s.square[k])) {
        const auto input = static_cast<LinearInput>(t);
        throw NumericError(fmt::format(
            "{}: expected finite activations, with squares that float32 holds (below 1.8e19), found others "
            "in channel {} of {}",
            name ? name(input) : fmt::format("input {}", input_name(input)), k, counted(s.tokens, "token")));
      }
      a.mean.push_back(static_cast<float>(s.absolute[k] / n));
      a.rms.push_back(static_cast<float>(std::sqrt(s.square[k] / n)));
    }
    a.max = std::move(s.max);
    if (!s.first.empty()) {
      a.first_rows = Matrix(static_cast<int64_t>(s.first.size()) / s.features, s.features);
      std::copy(s.first.begin(), s.first.end(), a.first_rows.data());
    }
    if (gram_) finish_gram(s, a, last_[static_cast<size_t>(t)]);
    s = Sums{};
  }
  return out;
}

void StatsCollector::finish_gram(Sums& s, ActivationStats& all, ActivationStats& last) const {
  last = {};
  if (const int64_t tokens = static_cast<int64_t>(s.tokens) - last_row_; tokens > 0) {
    last.in_features = s.features;
    last.tokens = static_cast<uint64_t>(tokens);
    const int64_t rows =
        std::count_if(lengths_.end() - last_sequences_, lengths_.end(), [](int64_t n) { return n > 0; });
    last.first_rows = Matrix(rows, s.features);
    std::copy_n(all.first_rows.data() + (all.first_rows.rows() - rows) * s.features, rows * s.features,
                last.first_rows.data());
    for (int64_t i = 0; i < s.gram.size(); ++i) s.gram.data()[i] += s.last_gram.data()[i];
    gram_finish(s.last_gram, last.tokens);
    last.gram = std::move(s.last_gram);
  }
  gram_finish(s.gram, s.tokens);
  all.gram = std::move(s.gram);
}

void weigh_first_rows(ActivationStats& stats, double weight) {
  if (!(weight >= 1) || !std::isfinite(weight)) {
    throw ArgumentError(fmt::format("first-token weight: expected a number >= 1, found {}", weight));
  }
  if (weight == 1 || stats.gram.empty() || stats.first_rows.rows() == 0) return;
  const int64_t k = stats.in_features;
  Matrix sum(k, k);
  const int64_t rows = stats.first_rows.rows();
  gram_accumulate(stats.first_rows.data(), rows, k, sum);
  gram_finish(sum, static_cast<uint64_t>(rows));
  const double factor = (weight - 1) * static_cast<double>(rows) / static_cast<double>(stats.tokens);
  for (int64_t i = 0; i < sum.size(); ++i) {
    stats.gram.data()[i] = static_cast<float>(stats.gram.data()[i] + factor * sum.data()[i]);
  }
}

}  // namespace metal_marlin
