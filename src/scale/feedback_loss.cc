#include "scale/feedback_loss.h"

#include <algorithm>

#include "core/threads.h"
#include "kernels/linear_algebra.h"

namespace metal_marlin {
namespace {

constexpr int64_t kTileRows = 32;  // rows of the loss at a time

}  // namespace

FeedbackLoss::FeedbackLoss(std::span<const Matrix* const> weights, const Matrix& gram,
                           const ScaleSearchOptions& options, const GptqOptions& gptq)
    : gram_(gram),
      options_(options),
      sample_(sample_rows(weights, options.rows)),
      factor_(make_gptq_factor(gram, gptq)),
      scale_(static_cast<size_t>(gram.rows()), 1.0f) {}

// Multiplies by the ratio to the scale before. That costs at most some dozen roundings in float32, and saves a copy of
// the factor.
void FeedbackLoss::bring_to(std::span<const float> scale) {
  std::vector<float> ratio(scale.begin(), scale.end());
  for (size_t k = 0; k < ratio.size(); ++k) ratio[k] /= scale_[k];
  scale_factor(factor_, ratio);
  scale_.assign(scale.begin(), scale.end());
}

double FeedbackLoss::operator()(std::span<const float> scale) {
  bring_to(scale);
  const int64_t k = sample_.cols();
  Matrix scaled = sample_.clone();
  for (int64_t r = 0; r < scaled.rows(); ++r) {
    for (int64_t c = 0; c < k; ++c) scaled(r, c) *= scale[static_cast<size_t>(c)];
  }
  Matrix blocks;
  if (reads_gram(options_.range.method))
    blocks = scaled_blocks(gram_, scale_, block_of(options_.range, options_.grid, k));
  const GroupRanges ranges = group_ranges(scaled, options_.grid, options_.range, blocks.empty() ? nullptr : &blocks);
  const Matrix rounded = dequantize(quantize_gptq(scaled, factor_, ranges, options_.grid));
  const int64_t tiles = (sample_.rows() + kTileRows - 1) / kTileRows;
  std::vector<double> forms(static_cast<size_t>(sample_.rows()));
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t first = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, sample_.rows() - first);
    std::vector<float> error(static_cast<size_t>(rows * k));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < k; ++c) {
        error[static_cast<size_t>(r * k + c)] =
            rounded(first + r, c) / scale[static_cast<size_t>(c)] - sample_(first + r, c);
      }
    }
    std::vector<float> scratch(static_cast<size_t>(rows * kQuadraticColumns));
    quadratic_rows(error.data(), rows, k, gram_.data(), k, k, scratch.data(), forms.data() + first);
  });
  double loss = 0;
  for (const double form : forms) loss += form;
  return loss;
}

}  // namespace metal_marlin
