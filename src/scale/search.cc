#include "scale/search.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

constexpr float kLeastStatistic = 1e-4f;  // of the published search: a silent channel must not get scale 0
constexpr int64_t kTileRows = 128;        // rows of the loss at a time; amortises the packing of G in the products

int64_t stacked_rows(std::span<const Matrix* const> weights) {
  int64_t rows = 0;
  for (const Matrix* weight : weights) rows += weight->rows();
  return rows;
}

// Returns tr(E G E^T) of the rows first .. first + count - 1 of `sample`. `scaled_gram` is G / (s s^T), for ranges that
// read it.
double tile_loss(const Matrix& sample, int64_t first, int64_t count, const Matrix& gram, const Matrix* scaled_gram,
                 const std::vector<float>& scale, const std::vector<float>& unscale,
                 const ScaleSearchOptions& options) {
  const int64_t k = sample.cols();
  Matrix scaled(count, k);
  for (int64_t r = 0; r < count; ++r) {
    const float* w = sample.row(first + r).data();
    float* to = scaled.row(r).data();
    for (int64_t c = 0; c < k; ++c) to[c] = w[c] * scale[static_cast<size_t>(c)];
  }
  const GroupRanges ranges = group_ranges(scaled, options.grid, options.range, scaled_gram);
  const int64_t groups = ranges.groups();
  const float top = static_cast<float>(options.grid.levels() - 1);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const auto at = static_cast<size_t>(r * groups + g);
      const int64_t start = g * ranges.group_size;
      float* values = scaled.row(r).data() + start;
      round_error_span(values, sample.row(first + r).data() + start, unscale.data() + start,
                       std::min(ranges.group_size, k - start), decode_scale(ranges.scales[at], options.grid.scale_type),
                       ranges.zeros[at], ranges.minimum(at, options.grid), top, values);
    }
  }
  std::vector<float> scratch(static_cast<size_t>(count * kQuadraticColumns));
  std::vector<double> forms(static_cast<size_t>(count));
  quadratic_rows(scaled.data(), count, k, gram.data(), k, k, scratch.data(), forms.data());
  double loss = 0;
  for (const double form : forms) loss += form;
  return loss;
}

void require_input(std::span<const Matrix* const> weights, const ScaleSearchOptions& options) {
  if (weights.empty() || weights.front()->empty()) throw ArgumentError("weights: expected at least one linear");
  for (const Matrix* weight : weights) {
    if (weight->empty() || weight->cols() != weights.front()->cols()) {
      throw ArgumentError(fmt::format("weights: expected linears with {} inputs, as the first, found [{}, {}]",
                                      weights.front()->cols(), weight->rows(), weight->cols()));
    }
    require_finite(*weight, "weights");
  }
  validate(options.grid);
  if (options.ratios < 1) throw ArgumentError(fmt::format("ratios: expected at least 1, found {}", options.ratios));
  if (options.rows < 0) throw ArgumentError(fmt::format("rows: expected 0 (all) or more, found {}", options.rows));
}

// Returns the losses of these candidates.
using LossesOf = std::function<std::vector<double>(std::span<const std::vector<float>> scales)>;

// With stop_early: of every second candidate in order until three in a row do not lower the loss, and of the neighbours
// of the best; infinity for the others. `at_once`: how many losses_of() takes at a time without taking longer.
std::vector<double> early_losses(std::span<const std::vector<float>> scales, size_t at_once,
                                 const LossesOf& losses_of) {
  constexpr int kRises = 3;
  constexpr size_t kStep = 2;
  std::vector<double> losses(scales.size(), std::numeric_limits<double>::infinity());
  size_t best = 0;
  int rises = 0;
  for (size_t first = 0; first < scales.size() && rises < kRises; first += kStep * at_once) {
    std::vector<std::vector<float>> tried;
    for (size_t i = first; i < scales.size() && tried.size() < at_once; i += kStep) tried.push_back(scales[i]);
    const std::vector<double> found = losses_of(tried);
    for (size_t t = 0; t < found.size() && rises < kRises; ++t) {
      const size_t i = first + kStep * t;
      losses[i] = found[t];
      rises = losses[i] < losses[best] || i == 0 ? 0 : rises + 1;
      if (rises == 0) best = i;
    }
  }
  for (const size_t i : {best - 1, best + 1}) {
    if (i < scales.size()) losses[i] = losses_of(scales.subspan(i, 1)).front();
  }
  return losses;
}

void require_scale(std::span<const float> scale, int64_t in_features) {
  if (static_cast<int64_t>(scale.size()) != in_features) {
    throw ArgumentError(fmt::format("scale: expected {}, found {}", counted(in_features, "value"), scale.size()));
  }
  for (size_t k = 0; k < scale.size(); ++k) {
    if (!(scale[k] > 0) || !std::isfinite(scale[k])) {
      throw NumericError(fmt::format(
          "scale: expected positive finite values, found {} for channel {}; check the activation statistics", scale[k],
          k));
    }
  }
}

}  // namespace

Matrix sample_rows(std::span<const Matrix* const> weights, int64_t wanted) {
  const int64_t total = stacked_rows(weights);
  const int64_t count = wanted == 0 ? total : std::min(wanted, total);
  Matrix sample(count, weights.front()->cols());
  size_t linear = 0;
  int64_t first = 0;
  for (int64_t i = 0; i < count; ++i) {
    // i * total stays far below 2^63: both are numbers of rows.
    const int64_t row = i * total / count;
    while (row - first >= weights[linear]->rows()) first += weights[linear++]->rows();
    const std::span<const float> from = weights[linear]->row(row - first);
    std::copy(from.begin(), from.end(), sample.row(i).begin());
  }
  return sample;
}

int64_t block_of(const RangeOptions& range, const Grid& grid, int64_t in_features) {
  return range.method == RangeChoice::kDiagonal ? 1 : grid.group_of(in_features);
}

Matrix scaled_blocks(const Matrix& gram, const std::vector<float>& scale, int64_t group_size) {
  const int64_t k = gram.rows();
  Matrix out(k, k, Touch::kSparsely);
  parallel_for((k + group_size - 1) / group_size, [&](int64_t group) {
    const int64_t start = group * group_size;
    const int64_t end = std::min(start + group_size, k);
    for (int64_t r = start; r < end; ++r) {
      for (int64_t c = start; c < end; ++c) {
        out(r, c) = gram(r, c) / (scale[static_cast<size_t>(r)] * scale[static_cast<size_t>(c)]);
      }
    }
  });
  return out;
}

void multiply_columns(Matrix& weight, std::span<const float> scale) {
  constexpr int64_t kRows = 64;
  parallel_for((weight.rows() + kRows - 1) / kRows, [&](int64_t tile) {
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, weight.rows()); ++r) {
      const std::span<float> row = weight.row(r);
      for (size_t c = 0; c < row.size(); ++c) row[c] *= scale[c];
    }
  });
}

Statistic parse_activation_method(const std::string& name) {
  if (name == "mean") return Statistic::kMean;
  if (name == "max") return Statistic::kMax;
  if (name == "rms") return Statistic::kRms;
  throw ArgumentError(fmt::format("activation method: expected mean, max or rms, found \"{}\"", name));
}

std::span<const float> activation_statistic(const ActivationStats& stats, Statistic method) {
  const std::vector<float>& values = method == Statistic::kMean  ? stats.mean
                                     : method == Statistic::kMax ? stats.max
                                                                 : stats.rms;
  if (static_cast<int64_t>(values.size()) != stats.in_features) {
    throw ArgumentError(fmt::format("activation statistics: expected {}, found {}", counted(stats.in_features, "value"),
                                    values.size()));
  }
  for (size_t k = 0; k < values.size(); ++k) {
    if (!(values[k] >= 0) || !std::isfinite(values[k])) {
      throw NumericError(
          fmt::format("activation statistics: expected finite values >= 0, found {} for channel {}", values[k], k));
    }
  }
  return values;
}

void pool_heads(std::span<float> scale, const HeadGroups& heads) {
  if (heads.heads == 0) return;
  if (heads.heads < 0 || heads.kv_heads < 1 || heads.head_dim < 1 || heads.heads % heads.kv_heads != 0 ||
      static_cast<int64_t>(scale.size()) != heads.heads * heads.head_dim) {
    throw ArgumentError(
        fmt::format("heads: expected heads * head_dim = {} and kv_heads that divide heads, found {} of "
                    "{}, {} kv heads",
                    counted(scale.size(), "channel"), counted(heads.heads, "head"), heads.head_dim, heads.kv_heads));
  }
  const int64_t share = heads.heads / heads.kv_heads;
  if (share == 1) return;
  for (int64_t kv = 0; kv < heads.kv_heads; ++kv) {
    for (int64_t d = 0; d < heads.head_dim; ++d) {
      float* first = scale.data() + kv * share * heads.head_dim + d;
      double sum = 0;
      for (int64_t h = 0; h < share; ++h) sum += std::log(static_cast<double>(first[h * heads.head_dim]));
      const auto mean = static_cast<float>(std::exp(sum / static_cast<double>(share)));
      for (int64_t h = 0; h < share; ++h) first[h * heads.head_dim] = mean;
    }
  }
}

std::vector<double> gram_losses(std::span<const Matrix* const> weights, const Matrix& gram,
                                std::span<const std::vector<float>> scales, const ScaleSearchOptions& options) {
  require_input(weights, options);
  const int64_t k = weights.front()->cols();
  if (gram.rows() != k || gram.cols() != k) {
    throw ArgumentError(
        fmt::format("gram: expected [{}, {}] for weights with {} inputs, found [{}, {}]; collect it during calibration",
                    k, k, k, gram.rows(), gram.cols()));
  }
  std::vector<std::vector<float>> unscales;
  for (const std::vector<float>& scale : scales) {
    require_scale(scale, k);
    std::vector<float> unscale(scale.size());
    for (size_t c = 0; c < scale.size(); ++c) unscale[c] = 1.0f / scale[c];
    unscales.push_back(std::move(unscale));
  }
  // A product of more rows packs G less often. Where ranges read G, few candidates are tried at a time (stop_early),
  // and each thread takes one.
  const bool by_gram = reads_gram(options.range.method);
  const int64_t tile_rows = by_gram ? 2 * kTileRows : kTileRows;
  const Matrix sample = sample_rows(weights, options.rows);
  const int64_t tiles = (sample.rows() + tile_rows - 1) / tile_rows;
  const auto count = static_cast<int64_t>(scales.size());
  std::vector<double> parts(static_cast<size_t>(count * tiles));
  parallel_for(count * tiles, [&](int64_t i) {
    const auto candidate = static_cast<size_t>(i / tiles);
    const int64_t first = i % tiles * tile_rows;
    Matrix scaled_gram;
    if (by_gram) scaled_gram = scaled_blocks(gram, scales[candidate], block_of(options.range, options.grid, k));
    parts[static_cast<size_t>(i)] =
        tile_loss(sample, first, std::min(tile_rows, sample.rows() - first), gram, by_gram ? &scaled_gram : nullptr,
                  scales[candidate], unscales[candidate], options);
  });
  std::vector<double> losses(static_cast<size_t>(count), 0.0);
  for (int64_t i = 0; i < count * tiles; ++i) losses[static_cast<size_t>(i / tiles)] += parts[static_cast<size_t>(i)];
  return losses;
}

InputScale search_ratios(LinearInput input, std::span<const Matrix* const> weights, const ActivationStats& stats,
                         const ScaleSearchOptions& options,
                         const std::function<std::vector<float>(double ratio)>& candidate) {
  require_input(weights, options);
  std::vector<std::vector<float>> scales;
  for (int i = 0; i < options.ratios; ++i) {
    scales.push_back(candidate(static_cast<double>(i) / options.ratios));
    require_scale(scales.back(), weights.front()->cols());
  }
  const LossesOf losses_of = [&](std::span<const std::vector<float>> tried) {
    if (!options.loss) return gram_losses(weights, stats.gram, tried, options);
    std::vector<double> losses;
    for (const std::vector<float>& scale : tried) losses.push_back(options.loss(scale));
    return losses;
  };
  // Each candidate may hold a copy of what the ranges read of G.
  const size_t at_once = options.loss ? 1 : static_cast<size_t>(std::min(threads(), 4));
  const std::vector<double> losses = options.stop_early ? early_losses(scales, at_once, losses_of) : losses_of(scales);
  size_t best = losses.size();
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < losses.size(); ++i) {
    if (losses[i] < least) {
      least = losses[i];
      best = i;
    }
  }
  if (best == losses.size()) {
    throw NumericError(fmt::format(
        "scale search of input {}: no candidate has a finite loss; check weights and activations", input_name(input)));
  }
  InputScale result;
  result.input = input;
  result.scale = std::move(scales[best]);
  result.ratio = static_cast<double>(best) / options.ratios;
  result.loss_before = losses.front();
  result.loss_after = least;
  return result;
}

InputScale search_scale(LinearInput input, std::span<const Matrix* const> weights, const ActivationStats& stats,
                        const ScaleSearchOptions& options) {
  const std::span<const float> statistic = activation_statistic(stats, options.statistic);
  return search_ratios(input, weights, stats, options, [&](double ratio) {
    std::vector<float> scale(statistic.size());
    for (size_t k = 0; k < scale.size(); ++k) {
      scale[k] = static_cast<float>(std::pow(std::max(statistic[k], kLeastStatistic), ratio));
    }
    pool_heads(scale, options.heads);
    const auto [least, largest] = std::minmax_element(scale.begin(), scale.end());
    if (scale.empty()) return scale;
    const auto middle = static_cast<float>(std::sqrt(static_cast<double>(*least) * *largest));
    for (float& s : scale) s /= middle;
    return scale;
  });
}

}  // namespace metal_marlin
