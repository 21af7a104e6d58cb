#include "quantize/blocks/blocks.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/threads.h"
#include "quantize/blocks/block_scales.h"
#include "quantize/blocks/choose_scales.h"
#include "quantize/blocks/refine_blocks.h"
#include "quantize/blocks/segment.h"
#include "quantize/ranges.h"
#include "quantize/rounding/damped_gram.h"
#include "quantize/rounding/gptq.h"

namespace metal_marlin {
namespace {

BlockForm required_form(const Matrix& weight, const Matrix& gram, GgmlType type) {
  const auto form = block_form(type);
  if (!form)
    throw ArgumentError(fmt::format("ggml type {}: weights cannot be rounded to it", ggml_type_info(type).name));
  const int64_t k = weight.cols();
  if (weight.empty() || k % form->block != 0) {
    throw ArgumentError(fmt::format("weight: expected [out, in] with a multiple of {} inputs for {}, found [{}, {}]",
                                    form->block, ggml_type_info(type).name, weight.rows(), k));
  }
  if (gram.rows() != k || gram.cols() != k) {
    throw ArgumentError(fmt::format("gram: expected [{0}, {0}], found [{1}, {2}]", k, gram.rows(), gram.cols()));
  }
  return *form;
}

// Each weight to the nearest value of its segment.
void round_to_nearest(const Matrix& weight, const BlockForm& form, const std::vector<SegmentFactor>& factors,
                      BlockFields& fields) {
  const BlockNumbers numbers(form);
  const int64_t k = weight.cols();
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    const int64_t row = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - row);
    const TileScales scales(form, fields, k, row, rows);
    SegmentTrial trial(form, numbers);
    std::vector<float> values(static_cast<size_t>(form.segment * kLaneRows));
    std::array<float, kLaneRows> loss;
    std::array<uint8_t, kLaneRows> all;
    all.fill(1);
    for (int64_t g = 0; g < scales.segments(); ++g) {
      for (int64_t j = 0; j < form.segment; ++j) {
        for (int64_t r = 0; r < rows; ++r)
          values[static_cast<size_t>(j * kLaneRows + r)] = weight(row + r, g * form.segment + j);
      }
      trial.start(factors[static_cast<size_t>(g)], values.data());
      trial.round(scales.scales(g), scales.minima(g), loss.data());
      trial.keep(all.data());
      trial.kept_numbers(all.data(), values.data());
      for (int64_t j = 0; j < form.segment; ++j) {
        for (int64_t r = 0; r < rows; ++r) {
          fields.codes[static_cast<size_t>((row + r) * k + g * form.segment + j)] =
              numbers.code(values[static_cast<size_t>(j * kLaneRows + r)]);
        }
      }
    }
  });
}

void round_with_feedback(const Matrix& weight, const BlockForm& form, const GptqFactor& factor, BlockFields& fields) {
  const BlockNumbers numbers(form);
  const int64_t groups = weight.cols() / form.segment;
  const CodeGrid grid{form.segment, numbers.top, form.minima, numbers.levels};
  const auto fill = [&](int64_t row, int64_t rows, TileRanges& ranges) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const auto to = static_cast<size_t>(g * kLaneRows + r);
        ranges.scales[to] = divisor(block_scale(form, fields, (row + r) * groups + g));
        ranges.zeros[to] = numbers.zero;
        if (form.minima) ranges.minima[to] = block_minimum(form, fields, (row + r) * groups + g);
      }
    }
  };
  gptq_codes(weight, factor, grid, fill, fields.codes.data());
}

}  // namespace

BlockTensor quantize_to_blocks(const Matrix& weight, const Matrix& gram, GgmlType type, const BlockRounding& options,
                               const GptqFactor* factor) {
  const BlockForm form = required_form(weight, gram, type);
  if (options.passes < 0) throw ArgumentError(fmt::format("passes: expected 0 or more, found {}", options.passes));
  require_finite(weight, "weight");
  require_finite(gram, "gram");
  std::optional<GptqFactor> own;
  if (options.feedback && factor == nullptr) {
    own = make_gptq_factor(gram, options.gptq);
    factor = &*own;
  }
  if (options.feedback) require_factor(*factor, weight.cols());
  const DampedGram h(gram, options.gptq.damping);
  std::vector<SegmentFactor> factors = make_segment_factors(h, form.segment, options.feedback);
  BlockFields fields = choose_scales(weight, h, form, factors);
  if (options.feedback) {
    round_with_feedback(weight, form, *factor, fields);
  } else {
    round_to_nearest(weight, form, factors, fields);
  }
  if (options.passes > 0) {
    if (!options.feedback) factors = make_segment_factors(h, form.segment, true);
    refine_blocks(weight, h, form, factors, options.passes, fields);
  }
  return {type, weight.rows(), weight.cols(), pack_blocks(type, fields)};
}

}  // namespace metal_marlin
