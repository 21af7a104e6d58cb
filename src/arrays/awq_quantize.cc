#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/group_range.h"
#include "quantize/rtn.h"
#include "scale/salient.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

constexpr int64_t kStages = 5;
constexpr int64_t kSampleRows = 256;     // output channels that the search looks at, evenly spaced
constexpr int64_t kTokenTile = 128;      // of the output error
constexpr int64_t kExactOutputs = 1024;  // up to here the output error is exact
constexpr int64_t kCombinations = 256;   // random sums of the outputs, for more outputs than that
constexpr int64_t kCombined = 256;       // rows and columns of a tile of the sums
// Of 25 and 54 candidates these many are tried with the whole block. Measured on 24 linears of SmolLM2: on other text
// the output error was no larger than with all candidates.
constexpr int kSymmetricFinalists = 5;
constexpr int kAsymmetricFinalists = 10;

int64_t sample_size(const Matrix& weight) noexcept {
  return std::min(kSampleRows, weight.rows());
}
int64_t sample_row(const Matrix& weight, int64_t i) noexcept {
  return i * weight.rows() / sample_size(weight);
}

// Writes the upper halves of the diagonal blocks of G / (s s^T) into `out` [k, k]. The rest of its memory is never
// touched.
void scale_blocks(const Matrix& gram, std::span<const float> scale, int64_t group_size, Matrix& out) {
  const int64_t k = gram.rows();
  parallel_for((k + group_size - 1) / group_size, [&](int64_t group) {
    const int64_t start = group * group_size;
    const int64_t end = std::min(start + group_size, k);
    for (int64_t r = start; r < end; ++r) {
      const float* from = gram.row(r).data();
      float* to = out.row(r).data();
      for (int64_t c = r; c < end; ++c)
        to[c] = from[c] / (scale[static_cast<size_t>(r)] * scale[static_cast<size_t>(c)]);
    }
  });
}

// The output error of a candidate scale on evenly spaced output channels. Blocks of the Gram matrix are enough, because
// rounding errors of different groups are independent: what the blocks leave out has a mean of zero over output
// channels.
class BlockLoss {
 public:
  BlockLoss(const Matrix& weight, const Matrix& gram, const Grid& grid, const RangeOptions& range)
      : gram_(gram),
        grid_(grid),
        range_(range),
        sample_(sample_size(weight), weight.cols()),
        scaled_(sample_.rows(), sample_.cols()),
        scaled_gram_(gram.rows(), gram.cols()) {
    for (int64_t i = 0; i < sample_.rows(); ++i) {
      std::copy_n(weight.row(sample_row(weight, i)).data(), weight.cols(), sample_.row(i).data());
    }
  }
  double operator()(std::span<const float> scale) {
    std::copy_n(sample_.data(), sample_.size(), scaled_.data());
    multiply_columns(scaled_, scale);
    scale_blocks(gram_, scale, grid_.group_size, scaled_gram_);
    return group_loss(scaled_, group_ranges(scaled_, grid_, range_, &scaled_gram_), grid_, scaled_gram_);
  }

 private:
  const Matrix& gram_;
  Grid grid_;
  RangeOptions range_;
  Matrix sample_;
  Matrix scaled_;  // memory for one candidate at a time
  Matrix scaled_gram_;
};

// Returns the largest group scale that absmax ranges would need.
float largest_scale(const Matrix& weight) {
  float largest = 0;
  for (const float w : weight.values()) largest = std::max(largest, std::fabs(w));
  return largest / static_cast<float>(kAwqMaxInt4);
}

// Powers of two are exact in q_scale and in the weights. So they can move group scales into the middle of float16's
// range.
float centering_factor(float largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::clamp(-exponent, -14, 15));
}

// The rows by which the error of the outputs is measured: errors E and weights W [rows, K], in units of the unscaled
// weights.
struct Outputs {
  Matrix errors;
  Matrix weights;
};

// Takes the rows themselves.
Outputs exact_outputs(const Matrix& weight, const QuantizedTensor& quantized, std::span<const float> scale,
                      int64_t first, int64_t rows) {
  Outputs out{Matrix(rows, weight.cols()), Matrix(rows, weight.cols())};
  parallel_for(rows, [&](int64_t i) {
    float* e = out.errors.row(i).data();
    float* u = out.weights.row(i).data();
    dequantize_rows(quantized, first + i, 1, e);
    const float* w = weight.row(first + i).data();
    for (size_t c = 0; c < scale.size(); ++c) {
      e[c] = (e[c] - w[c]) / scale[c];
      u[c] = w[c] / scale[c];
    }
  });
  return out;
}

// Takes R E and R W with random signs R [kCombinations, N]. The mean over R of |X (R E)^T|^2 / kCombinations is |X
// E^T|^2, however unequal the outputs are. Its relative standard deviation is at most sqrt(2 / kCombinations).
Outputs combined_outputs(const Matrix& weight, const QuantizedTensor& quantized, std::span<const float> scale) {
  const int64_t n = weight.rows();
  const int64_t k = weight.cols();
  Matrix signs(n, kCombinations);
  Random random(1);
  for (float& sign : signs.values()) sign = random.below(2) == 0 ? -1.0f : 1.0f;
  Outputs out{Matrix(kCombinations, k), Matrix(kCombinations, k)};
  const int64_t groups = quantized.groups();
  parallel_for((k + kCombined - 1) / kCombined, [&](int64_t tile) {
    const int64_t start = tile * kCombined;
    const int64_t columns = std::min(kCombined, k - start);
    std::vector<float> e(static_cast<size_t>(kCombined * columns));
    std::vector<float> u(e.size());
    for (int64_t first = 0; first < n; first += kCombined) {
      const int64_t rows = std::min(kCombined, n - first);
      for (int64_t r = 0; r < rows; ++r) {
        const float* w = weight.row(first + r).data() + start;
        const uint8_t* codes = quantized.codes.data() + (first + r) * k + start;
        for (int64_t c = 0; c < columns; ++c) {
          const auto at = static_cast<size_t>((first + r) * groups + (start + c) / quantized.group_size);
          const float value = static_cast<float>(codes[c] - quantized.zeros[at]) * f16_to_f32(quantized.scales[at]);
          const float s = scale[static_cast<size_t>(start + c)];
          e[static_cast<size_t>(r * columns + c)] = (value - w[c]) / s;
          u[static_cast<size_t>(r * columns + c)] = w[c] / s;
        }
      }
      for (const auto& [from, to] : {std::pair{&e, &out.errors}, {&u, &out.weights}}) {
        sgemm_tile(true, false, kCombinations, columns, rows, 1.0f, signs.row(first).data(), kCombinations,
                   from->data(), columns, 1.0f, to->data() + start, k);
      }
    }
  });
  return out;
}

// Returns the sums of |X E^T|^2 and of |X W^T|^2.
struct OutputSums {
  double error = 0;
  double output = 0;

  void add(const Outputs& outputs, const float* x, int64_t tokens) {
    const int64_t k = outputs.errors.cols();
    const int64_t n = outputs.errors.rows();
    const int64_t tiles = (tokens + kTokenTile - 1) / kTokenTile;
    std::vector<double> parts(static_cast<size_t>(2 * tiles));
    parallel_for(2 * tiles, [&](int64_t i) {
      const int64_t first = i / 2 * kTokenTile;
      const int64_t rows = std::min(kTokenTile, tokens - first);
      std::vector<float> y(static_cast<size_t>(rows * n));
      const Matrix& side = i % 2 == 0 ? outputs.errors : outputs.weights;
      sgemm_tile(false, true, rows, n, k, 1.0f, x + first * k, k, side.data(), k, 0.0f, y.data(), n);
      double sum = 0;
      for (const float v : y) sum += static_cast<double>(v) * v;
      parts[static_cast<size_t>(i)] = sum;
    });
    for (size_t i = 0; i < parts.size(); ++i) (i % 2 == 0 ? error : output) += parts[i];
  }
  double relative() const {
    if (output > 0) return std::sqrt(error / output);
    return error > 0 ? std::numeric_limits<double>::infinity() : 0.0;
  }
};

// Passes all activations to fn(rows, count).
using ForEachBatch = std::function<void(const std::function<void(const float*, int64_t)>&)>;

class Quantizer {
 public:
  // gram: the blocks of `grid`'s groups, upper halves.
  Quantizer(Matrix weight, ActivationStats stats, Matrix gram, const Grid& grid)
      : weight_(std::move(weight)), stats_(std::move(stats)), gram_(std::move(gram)), grid_(grid) {}

  AWQResult run(double salient_ratio, const std::string& method, const ForEachBatch& activations,
                const Observer& observer) {
    AWQResult result;
    result.salient_ratio = salient_ratio;
    report_stage(observer, "search scales", 1, kStages);
    find_scale(salient_ratio, method, result.meta);
    report_stage(observer, "search ranges", 2, kStages);
    GroupRanges ranges = find_ranges();
    gram_ = Matrix();
    report_stage(observer, "round", 3, kStages);
    QuantizedTensor q = quantize_rtn(weight_, ranges, grid_);
    report_stage(observer, "measure", 4, kStages);
    result.meta.raised_scales = ranges.counts.raised;
    result.meta.output_error = output_error(q, activations);
    const ErrorSums sums = unscaled_error(weight_, q, scale_);
    result.quantization_error = sums.error;
    result.meta.weight_error = sums.weight > 0 ? std::sqrt(sums.error / sums.weight) : 0;
    result.meta.in_features = weight_.cols();
    result.meta.out_features = weight_.rows();
    result.meta.group_size = grid_.group_size;
    result.meta.padded_in_features = padded_in_features(weight_.cols(), grid_.group_size);
    result.meta.scheme = grid_.symmetric ? "sym" : "asym";
    weight_ = Matrix();
    NativeArrays arrays = native_arrays(std::move(q));
    result.Q = std::move(arrays.words);
    result.scales = std::move(arrays.scales);
    result.zeros = std::move(arrays.zeros);
    result.q_scale = Array(ElementType::kF16, {static_cast<int64_t>(scale_.size())});
    for (size_t k = 0; k < scale_.size(); ++k) result.q_scale.as<uint16_t>()[k] = f32_to_f16(scale_[k]);
    return result;
  }

 private:
  double output_error(const QuantizedTensor& q, const ForEachBatch& activations) const {
    OutputSums sums;
    const auto measure = [&](const Outputs& outputs) {
      activations([&](const float* rows, int64_t count) { sums.add(outputs, rows, count); });
    };
    if (weight_.rows() > kExactOutputs) {
      measure(combined_outputs(weight_, q, scale_));
    } else {
      for (int64_t first = 0; first < weight_.rows(); first += kCombinations) {
        measure(exact_outputs(weight_, q, scale_, first, std::min(kCombinations, weight_.rows() - first)));
      }
    }
    return sums.relative();
  }

  void find_scale(double salient_ratio, const std::string& method, AWQMeta& meta) {
    ScaleSearchOptions options;
    options.statistic = parse_activation_method(method);
    options.grid = grid_;
    options.range = range_options();
    BlockLoss loss(weight_, gram_, grid_, options.range);
    options.loss = std::ref(loss);
    const Matrix* const stack[] = {&weight_};
    const SalientScaling found = compute_salient_scaling(LinearInput::kQkv, stack, stats_, salient_ratio, options);
    meta.exponent = found.scale.ratio;
    meta.salient_weights = static_cast<int64_t>(std::floor(salient_ratio * static_cast<double>(weight_.size()) + 0.5));
    meta.salient_channels = static_cast<int64_t>(found.channels.size());
    scale_ = found.scale.scale;
    // Divide by the scale as float16 stores it.
    for (float& s : scale_) s = round_to_f16(std::min(s, kLargestScale));
    multiply_columns(weight_, scale_);
    require_finite(weight_, "weights times q_scale");
    scale_blocks(gram_, scale_, grid_.group_size, gram_);
  }

  RangeOptions range_options() const {
    RangeOptions options;
    options.method = RangeMethod::kGram;
    options.finalists = grid_.symmetric ? kSymmetricFinalists : kAsymmetricFinalists;
    return options;
  }

  GroupRanges find_ranges() {
    const RangeOptions options = range_options();
    GroupRanges ranges = group_ranges(weight_, grid_, options, &gram_);
    if (ranges.counts.clamped == 0 && ranges.counts.raised == 0) return ranges;
    const float factor = centering_factor(largest_scale(weight_));
    std::vector<float> moved = scale_;
    bool fits = factor != 1.0f;
    for (float& s : moved) {
      s *= factor;
      fits = fits && s >= kLeastScale && s <= kLargestScale;
    }
    if (fits) {
      const std::vector<float> step(scale_.size(), factor);
      multiply_columns(weight_, step);
      scale_blocks(gram_, step, grid_.group_size, gram_);
      scale_ = std::move(moved);
      ranges = group_ranges(weight_, grid_, options, &gram_);
    }
    if (ranges.counts.clamped > 0) {
      throw NumericError(
          fmt::format("weights: expected values whose group scales float16 can hold (at most 65504), found {} "
                      "that {} it; the largest "
                      "scale is {:.3g}; divide the weights by a constant",
                      counted(ranges.counts.clamped, "group"), form_for(ranges.counts.clamped, "exceeds", "exceed"),
                      largest_scale(weight_)));
    }
    return ranges;
  }

  Matrix weight_;  // [N, K], scaled by scale_ once that is found
  ActivationStats stats_;
  Matrix gram_;  // of the scaled inputs, once scale_ is found
  Grid grid_;
  std::vector<float> scale_;  // [K], as float16 holds it
};

}  // namespace

AWQResult awq_quantize(const ArrayView& weights, const ArrayView& activations, int64_t group_size, double salient_ratio,
                       const std::string& activation_method, const std::string& scheme, const Observer& observer) try {
  const ThreadCount thread_count;
  const int64_t k = expect_layer(weights, activations);
  expect_group_size(group_size);
  if (!(salient_ratio >= 0 && salient_ratio <= 1)) {
    throw ArgumentError(fmt::format("salient_ratio: expected 0 to 1, found {}", salient_ratio));
  }
  parse_activation_method(activation_method);
  const Grid grid = grid_of(scheme, group_size);
  Matrix weight = load_transposed(weights, "weights");
  StatsCollector collector(false);
  Matrix gram(k, k);
  const int64_t tokens = token_count(activations);
  const ForEachBatch batches = [&](const std::function<void(const float*, int64_t)>& fn) {
    for_each_batch(activations, "activations", fn);
  };
  int64_t seen = 0;
  batches([&](const float* rows, int64_t count) {
    report_stage(observer, "statistics", seen, tokens);
    collector.add(LinearInput::kQkv, rows, count, k);
    gram_accumulate_blocks(rows, count, k, grid.group_of(k), static_cast<float>(1.0 / static_cast<double>(tokens)),
                           gram);
    seen += count;
  });
  return Quantizer(std::move(weight),
                   std::move(collector.finish([](LinearInput) { return std::string("activations"); })[0]),
                   std::move(gram), grid)
      .run(salient_ratio, activation_method, batches, observer);
} catch (...) {
  rethrow_as_error("awq_quantize");
}

}  // namespace metal_marlin
