#include "quantize/rounding/refine.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/candidates.h"
#include "quantize/group_range.h"
#include "quantize/lanes.h"
#include "quantize/rounding/damped_gram.h"
#include "quantize/rounding/gptq.h"

namespace metal_marlin {
namespace {

constexpr int64_t kBlock = 64;  // columns between two products with all columns after
constexpr float kLeastRatio =
    0.4f;  // of a refitted scale to the one before; below it the codes no longer fit the scale
constexpr float kLargestRatio = 2.0f;

// kLaneRows rows of a weight, column by column: value [k][row].
class Tile {
 public:
  Tile(const Matrix& weight, const DampedGram& h, QuantizedTensor& q, int64_t row)
      : h_(h),
        q_(q),
        row_(row),
        rows_(std::min(kLaneRows, weight.rows() - row)),
        k_(weight.cols()),
        groups_(q.groups()),
        top_(static_cast<float>(q.grid().levels() - 1)) {
    const auto size = static_cast<size_t>(k_ * kLaneRows);
    weight_.resize(size);
    code_.resize(size);
    error_.resize(size);
    residual_.resize(size);
    scale_.assign(static_cast<size_t>(groups_ * kLaneRows), 1.0f);
    zero_.assign(scale_.size(), 0.0f);
    for (int64_t r = 0; r < rows_; ++r) {
      const float* from = weight.row(row + r).data();
      for (int64_t k = 0; k < k_; ++k) {
        weight_[at(k, r)] = from[k];
        code_[at(k, r)] = q.codes[static_cast<size_t>((row + r) * k_ + k)];
      }
      for (int64_t g = 0; g < groups_; ++g) {
        const auto i = static_cast<size_t>((row + r) * groups_ + g);
        for (int64_t k = g * q.group_size; !q.minima.empty() && k < std::min((g + 1) * q.group_size, k_); ++k) {
          weight_[at(k, r)] -= q.minimum(i);
        }
        scale_[at(g, r)] = q.scale(i);
        zero_[at(g, r)] = q.zeros[i];
      }
    }
  }

  void descend() {
    make_residual();
    std::array<float, kBlock * kBlock> block;
    std::array<float, kBlock> inverse;
    std::array<const float*, kBlock> scales;
    std::array<float, kBlock * kLaneRows> step;
    for (int64_t start = 0; start < k_; start += kBlock) {
      const int64_t width = std::min(kBlock, k_ - start);
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < j; ++i) block[static_cast<size_t>(j * width + i)] = h_.gram(start + j, start + i);
        inverse[static_cast<size_t>(j)] = 1.0f / h_.diagonal(start + j);
        scales[static_cast<size_t>(j)] = scale_.data() + (start + j) / q_.group_size * kLaneRows;
      }
      descend_block(residual_.data() + start * kLaneRows, width, block.data(), inverse.data(), scales.data(), top_,
                    code_.data() + start * kLaneRows, step.data());
      const int64_t rest = k_ - start - width;
      if (rest > 0) {
        sgemm_tile(false, false, rest, kLaneRows, width, -1.0f, h_.gram.data() + (start + width) * k_ + start, k_,
                   step.data(), kLaneRows, 1.0f, residual_.data() + (start + width) * kLaneRows, kLaneRows);
      }
    }
  }

  int64_t refit(double damping) {
    make_residual();
    const int64_t g2 = groups_ * groups_;
    // Of each row: the upper half of A, and v.
    std::vector<float> a(static_cast<size_t>(g2 * kLaneRows));
    std::vector<float> v(static_cast<size_t>(groups_ * kLaneRows));
    std::vector<float> value(static_cast<size_t>(k_ * kLaneRows));
    for (int64_t k = 0; k < k_; ++k) {
      const int64_t g = k / q_.group_size;
      for (int64_t r = 0; r < kLaneRows; ++r) {
        value[at(k, r)] = code_[at(k, r)] - zero_[at(g, r)];
        v[at(g, r)] += residual_[at(k, r)] * value[at(k, r)];
      }
    }
    std::vector<float>& product = error_;  // make_residual computes it again
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t start = g * q_.group_size;
      const int64_t width = std::min(q_.group_size, k_ - start);
      sgemm_tile(false, false, k_ - start, kLaneRows, width, 1.0f, h_.gram.data() + start * k_ + start, k_,
                 value.data() + start * kLaneRows, kLaneRows, 0.0f, product.data(), kLaneRows);
      for (int64_t l = start; l < k_; ++l) {
        const int64_t h = l / q_.group_size;
        float* sum = a.data() + (g * groups_ + h) * kLaneRows;
        const float extra = h == g ? h_.extra[static_cast<size_t>(l)] : 0.0f;
        for (int64_t r = 0; r < kLaneRows; ++r) {
          sum[r] += (product[at(l - start, r)] + extra * value[at(l, r)]) * value[at(l, r)];
        }
      }
    }
    int64_t refitted = 0;
    std::vector<double> matrix(static_cast<size_t>(g2));
    std::vector<double> right(static_cast<size_t>(groups_));
    for (int64_t r = 0; r < rows_; ++r) refitted += refit_row(r, a, v, damping, matrix, right);
    return refitted;
  }

  int64_t store() {
    int64_t changed = 0;
    for (int64_t r = 0; r < rows_; ++r) {
      uint8_t* to = q_.codes.data() + (row_ + r) * k_;
      for (int64_t k = 0; k < k_; ++k) {
        const auto code = static_cast<uint8_t>(code_[at(k, r)]);
        changed += code != to[k] ? 1 : 0;
        to[k] = code;
      }
      for (int64_t g = 0; g < groups_; ++g) {
        q_.scales[static_cast<size_t>((row_ + r) * groups_ + g)] = encode_scale(scale_[at(g, r)], q_.scale_type);
      }
    }
    return changed;
  }

 private:
  static size_t at(int64_t k, int64_t r) noexcept { return static_cast<size_t>(k * kLaneRows + r); }

  // E = W - Wq and R = E H.
  void make_residual() {
    for (int64_t k = 0; k < k_; ++k) {
      const int64_t g = k / q_.group_size;
      for (int64_t r = 0; r < kLaneRows; ++r) {
        error_[at(k, r)] = weight_[at(k, r)] - (code_[at(k, r)] - zero_[at(g, r)]) * scale_[at(g, r)];
        residual_[at(k, r)] = error_[at(k, r)] * h_.extra[static_cast<size_t>(k)];
      }
    }
    sgemm_tile(false, false, k_, kLaneRows, k_, 1.0f, h_.gram.data(), k_, error_.data(), kLaneRows, 1.0f,
               residual_.data(), kLaneRows);
  }

  int64_t refit_row(int64_t r, const std::vector<float>& a, const std::vector<float>& v, double damping,
                    std::vector<double>& matrix, std::vector<double>& right) {
    double mean = 0;
    for (int64_t g = 0; g < groups_; ++g) mean += a[at(g * groups_ + g, r)];
    mean /= static_cast<double>(groups_);
    if (!(mean > 0)) return 0;  // every code at its zero
    for (int64_t h = 0; h < groups_; ++h) {
      for (int64_t g = 0; g <= h; ++g) matrix[static_cast<size_t>(h * groups_ + g)] = a[at(g * groups_ + h, r)];
      matrix[static_cast<size_t>(h * groups_ + h)] += damping * mean;
      right[static_cast<size_t>(h)] = v[at(h, r)];
    }
    if (!solve(matrix, right)) return 0;
    const ScaleRange storable = scale_range(q_.scale_type);
    double gain = 0;  // of the loss: -2 d v + d A d
    for (int64_t g = 0; g < groups_; ++g) {
      const float before = scale_[at(g, r)];
      const float after = decode_scale(
          encode_scale(before + static_cast<float>(right[static_cast<size_t>(g)]), q_.scale_type), q_.scale_type);
      const float ratio = after / before;
      const bool keep = !(ratio > kLeastRatio && ratio < kLargestRatio) || std::fabs(after) < storable.least ||
                        std::fabs(after) > storable.largest;
      right[static_cast<size_t>(g)] = keep ? 0.0 : static_cast<double>(after) - before;
    }
    for (int64_t g = 0; g < groups_; ++g) {
      const double d = right[static_cast<size_t>(g)];
      gain += d * (d * a[at(g * groups_ + g, r)] - 2.0 * v[at(g, r)]);
      for (int64_t h = g + 1; h < groups_; ++h)
        gain += 2.0 * d * right[static_cast<size_t>(h)] * a[at(g * groups_ + h, r)];
    }
    if (!(gain < 0)) return 0;
    int64_t refitted = 0;
    for (int64_t g = 0; g < groups_; ++g) {
      refitted += right[static_cast<size_t>(g)] != 0.0 ? 1 : 0;
      scale_[at(g, r)] += static_cast<float>(right[static_cast<size_t>(g)]);
    }
    return refitted;
  }

  // Cholesky on the lower half, in place. False: not positive definite.
  bool solve(std::vector<double>& m, std::vector<double>& b) const {
    const auto n = static_cast<size_t>(groups_);
    for (size_t i = 0; i < n; ++i) {
      double* row = m.data() + i * n;
      for (size_t j = 0; j <= i; ++j) {
        const double* other = m.data() + j * n;
        double sum = row[j];
        for (size_t l = 0; l < j; ++l) sum -= row[l] * other[l];
        if (i != j) {
          row[j] = sum / other[j];
        } else {
          if (!(sum > 0)) return false;
          row[i] = std::sqrt(sum);
        }
      }
      double x = b[i];
      for (size_t l = 0; l < i; ++l) x -= row[l] * b[l];
      b[i] = x / row[i];
    }
    for (size_t i = n; i-- > 0;) {
      double x = b[i];
      for (size_t l = i + 1; l < n; ++l) x -= m[l * n + i] * b[l];
      b[i] = x / m[i * n + i];
    }
    return true;
  }

  const DampedGram& h_;
  QuantizedTensor& q_;
  int64_t row_;
  int64_t rows_;
  int64_t k_;
  int64_t groups_;
  float top_;
  std::vector<float> weight_;  // less the group's minimum
  std::vector<float> code_;
  std::vector<float> error_;
  std::vector<float> residual_;
  std::vector<float> scale_;
  std::vector<float> zero_;
};

}  // namespace

RefineCounts refine(const Matrix& weight, const Matrix& gram, QuantizedTensor& q, const RefineOptions& options) {
  require_arguments(weight, q.grid(), &gram);
  if (q.out_features != weight.rows() || q.in_features != weight.cols()) {
    throw ArgumentError(fmt::format("refine: expected codes [{}, {}], found [{}, {}]", weight.rows(), weight.cols(),
                                    q.out_features, q.in_features));
  }
  if (!(options.damping >= 0) || !(options.refit_damping >= 0) || options.passes < 0) {
    throw ArgumentError("refine: expected passes and dampings >= 0");
  }
  validate(q, "refine");
  const DampedGram h(gram, options.damping);
  const int64_t tiles = (weight.rows() + kLaneRows - 1) / kLaneRows;
  std::vector<RefineCounts> counts(static_cast<size_t>(tiles));
  parallel_for(tiles, [&](int64_t i) {
    Tile tile(weight, h, q, i * kLaneRows);
    RefineCounts& count = counts[static_cast<size_t>(i)];
    const int steps = std::max(options.passes, options.refit ? 1 : 0);
    for (int pass = 0; pass < steps; ++pass) {
      if (pass < options.passes) tile.descend();
      if (options.refit && (pass + 1 < steps || steps == 1)) count.refitted_scales += tile.refit(options.refit_damping);
    }
    count.changed_codes += tile.store();
  });
  RefineCounts total;
  for (const RefineCounts& c : counts) {
    total.changed_codes += c.changed_codes;
    total.refitted_scales += c.refitted_scales;
  }
  return total;
}

uint64_t refine_memory_bytes(int64_t in_features, int64_t group_size) {
  const int64_t groups = (in_features + group_size - 1) / group_size;
  const int64_t floats = kLaneRows * (5 * in_features + groups * groups + 3 * groups);
  return static_cast<uint64_t>(threads()) * static_cast<uint64_t>(floats) * sizeof(float);
}

}  // namespace metal_marlin
