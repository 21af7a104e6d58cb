#include "text/selection.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/counted.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Returns 1 / mean of each channel over the pool, and 0 for channels that are always 0, so that these never count.
std::vector<double> inverse_means(const Matrix& profiles) {
  std::vector<double> out(static_cast<size_t>(profiles.cols()), 0);
  for (int64_t i = 0; i < profiles.rows(); ++i) {
    const float* row = profiles.row(i).data();
    for (size_t k = 0; k < out.size(); ++k) out[k] += row[k];
  }
  for (double& v : out) v = v > 0 ? static_cast<double>(profiles.rows()) / v : 0;
  return out;
}

// Keeps the sum of each channel so far, and computes what another sequence would add to f.
class Covered {
 public:
  explicit Covered(const Matrix& profiles)
      : profiles_(profiles), scale_(inverse_means(profiles)), sums_(scale_.size(), 0) {}
  double gain(int64_t i) const {
    const float* row = profiles_.row(i).data();
    double sum = 0;
    for (size_t k = 0; k < sums_.size(); ++k) sum += std::log1p(row[k] * scale_[k] / (1 + sums_[k]));
    return sum;
  }
  void add(int64_t i) {
    const float* row = profiles_.row(i).data();
    for (size_t k = 0; k < sums_.size(); ++k) sums_[k] += row[k] * scale_[k];
  }
  double value() const {
    double sum = 0;
    for (const double s : sums_) sum += std::log1p(s);
    return sum;
  }

 private:
  const Matrix& profiles_;
  std::vector<double> scale_;
  std::vector<double> sums_;
};

}  // namespace

ProfileCollector::ProfileCollector(const std::vector<int64_t>& lengths, int64_t features, int64_t blocks)
    : lengths_(lengths), features_(features), profiles_(static_cast<int64_t>(lengths.size()), features * blocks) {}

uint64_t ProfileCollector::bytes(int64_t sequences, int64_t features, int64_t blocks) {
  return static_cast<uint64_t>(sequences) * static_cast<uint64_t>(features) * static_cast<uint64_t>(blocks) *
         sizeof(float);
}

void ProfileCollector::begin_block(int64_t block, int64_t first_sequence) {
  block_ = block;
  first_sequence_ = first_sequence;
  next_offset_ = 0;
  cursors_.fill(Cursor{});
}

void ProfileCollector::add(LinearInput input, const float* x, int64_t rows, int64_t features) {
  Cursor& cursor = cursors_[static_cast<size_t>(input)];
  if (cursor.offset < 0) {
    cursor = {first_sequence_, 0, next_offset_};
    next_offset_ += features;
  }
  if (next_offset_ > features_)
    throw ArgumentError(fmt::format("profiles: expected {} features in a block, got {}", features_, next_offset_));
  for (int64_t done = 0; done < rows;) {
    if (cursor.sequence >= profiles_.rows()) throw ArgumentError("profiles: more rows than the sequences have");
    const int64_t length = lengths_[static_cast<size_t>(cursor.sequence)];
    const int64_t take = std::min(rows - done, length - cursor.row);
    float* out = profiles_.row(cursor.sequence).data() + block_ * features_ + cursor.offset;
    constexpr int64_t kTile = 256;
    parallel_for((features + kTile - 1) / kTile, [&](int64_t tile) {
      const int64_t begin = tile * kTile;
      const int64_t end = std::min(features, begin + kTile);
      for (int64_t r = 0; r < take; ++r) {
        const float* row = x + (done + r) * features;
        for (int64_t k = begin; k < end; ++k) {
          const float square = row[k] * row[k];
          out[k] = square <= out[k] || !(out[k] < kInfinity) ? out[k] : square;  // keeps a NaN or infinity
        }
      }
    });
    for (int64_t k = 0; k < features; ++k) {
      if (!std::isfinite(out[k]))
        throw NumericError(fmt::format(
            "input {}: the square of channel {} of the activations is NaN or Inf in sequence {} of the pool",
            input_name(input), k, cursor.sequence));
    }
    done += take;
    cursor.row += take;
    if (cursor.row == length) {
      cursor.row = 0;
      ++cursor.sequence;
    }
  }
}

Selection select_sequences(const Matrix& profiles, int64_t count, std::span<const int64_t> group,
                           std::span<const int64_t> quota) {
  const int64_t n = profiles.rows();
  if (count < 0 || count > n)
    throw ArgumentError(
        fmt::format("selection: expected at most {}, the size of the pool, got {}", counted(n, "sequence"), count));
  std::vector<int64_t> left(quota.begin(), quota.end());
  if (!group.empty()) {
    std::vector<int64_t> members(left.size(), 0);
    for (const int64_t g : group) ++members.at(static_cast<size_t>(g));
    for (size_t g = 0; g < left.size(); ++g) {
      if (left[g] > members[g])
        throw ArgumentError(
            fmt::format("selection: expected a quota of at most {}, got {}", counted(members[g], "sequence"), left[g]));
    }
    if (std::accumulate(left.begin(), left.end(), int64_t{0}) != count)
      throw ArgumentError("selection: the quotas do not sum up to the count");
  }
  Covered covered(profiles);
  std::vector<double> gain(static_cast<size_t>(n));
  parallel_for(n, [&](int64_t i) { gain[static_cast<size_t>(i)] = covered.gain(i); });
  std::vector<int64_t> computed(static_cast<size_t>(n), 0);  // number of chosen sequences when the gain was computed
  std::vector<uint8_t> chosen(static_cast<size_t>(n), 0);
  const auto open = [&](int64_t i) {
    return chosen[static_cast<size_t>(i)] == 0 &&
           (group.empty() || left[static_cast<size_t>(group[static_cast<size_t>(i)])] > 0);
  };
  Selection out;
  for (int64_t step = 0; step < count; ++step) {
    for (;;) {
      int64_t best = -1;
      for (int64_t i = 0; i < n; ++i) {
        if (open(i) && (best < 0 || gain[static_cast<size_t>(i)] > gain[static_cast<size_t>(best)])) best = i;
      }
      // An old gain bounds the new one from above. So a gain that is up to date and the largest in the heap is the
      // largest of all.
      if (computed[static_cast<size_t>(best)] == step) {
        chosen[static_cast<size_t>(best)] = 1;
        if (!group.empty()) --left[static_cast<size_t>(group[static_cast<size_t>(best)])];
        covered.add(best);
        out.sequences.push_back(best);
        break;
      }
      gain[static_cast<size_t>(best)] = covered.gain(best);
      computed[static_cast<size_t>(best)] = step;
    }
  }
  out.coverage = covered.value();
  std::vector<int64_t> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  out.pool_coverage = coverage(profiles, all);
  return out;
}

double coverage(const Matrix& profiles, std::span<const int64_t> rows) {
  Covered covered(profiles);
  for (const int64_t i : rows) covered.add(i);
  return covered.value();
}

}  // namespace metal_marlin
