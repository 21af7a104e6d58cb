#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize_matrix.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/enum_names.h"
#include "core/half.h"
#include "core/threads.h"
#include "pack/group_arrays.h"
#include "pack/native.h"
#include "quantize/errors.h"
#include "recipe/recipe.h"
#include "stages/linear_stages.h"
#include "stages/rounding_choice.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

constexpr int64_t kStages = 5;
// A lone weight has no place in a block; statistics are kept under this name.
constexpr LinearInput kInput = LinearInput::kQkv;

Recipe recipe_of(const MatrixOptions& options) {
  if (std::find(kNativeWidths.begin(), kNativeWidths.end(), options.bits) == kNativeWidths.end()) {
    throw ArgumentError("bits", fmt::format("bits: expected {}, found {}", list_widths(kNativeWidths), options.bits));
  }
  expect_group_size(options.group_size, true);
  if (options.damping) expect_damping(*options.damping, "damping");
  QuantizeOptions o;
  o.method = options.method;
  o.scheme = options.scheme;
  o.bits = options.bits;
  o.damping = options.damping;
  o.act_order = options.act_order;
  Recipe recipe = stages_of(o);
  recipe.grid.group_size = options.group_size;
  return recipe;
}

// What the inputs say: statistics of all tokens, and Gram matrices of those that judge the rounding.
struct InputStats {
  ActivationStats all;
  Matrix plain_gram;  // as all.gram, but every token counts once; empty: it is the same
  ActivationStats guard;
  double guard_share = 0;
};

// The lengths of the parts of the inputs, of which the last `last` judge.
struct Parts {
  std::vector<int64_t> lengths;
  int64_t last = 0;
  bool sequences = false;  // whether the parts are sequences of a model, with first tokens
};
Parts parts_of(const ArrayView& inputs, const Recipe& recipe) {
  const bool several = inputs.shape.size() == 3 && inputs.shape[0] > 1;
  if (several) {
    return {std::vector<int64_t>(static_cast<size_t>(inputs.shape[0]), inputs.shape[1]),
            guard_sequences(recipe, inputs.shape[0]), true};
  }
  const int64_t tokens = token_count(inputs);
  const int64_t last = guard_sequences(recipe, tokens);
  if (last == 0) return {{tokens}, 0, false};
  return {{tokens - last, last}, 1, false};
}

InputStats read_inputs(const ArrayView& inputs, const Recipe& recipe, const Observer& observer) {
  const Parts parts = parts_of(inputs, recipe);
  StatsCollector collector(true, MatmulPrecision::kF32, parts.lengths, parts.last);
  int64_t seen = 0;
  for_each_batch(inputs, "inputs", [&](const float* rows, int64_t count) {
    report_stage(observer, "statistics", seen, token_count(inputs));
    collector.add(kInput, rows, count, inputs.shape.back());
    seen += count;
  });
  InputStats out;
  out.all = std::move(collector.finish([](LinearInput) { return std::string("inputs"); })[static_cast<size_t>(kInput)]);
  if (parts.last > 0) {
    out.guard = std::move(collector.finish_last()[static_cast<size_t>(kInput)]);
    out.guard_share = static_cast<double>(out.guard.tokens) / static_cast<double>(out.all.tokens);
  }
  if (parts.sequences && recipe.first_token_weight != 1) {
    out.plain_gram = out.all.gram.clone();
    weigh_first_rows(out.all, recipe.first_token_weight);
    if (parts.last > 0) weigh_first_rows(out.guard, recipe.first_token_weight);
  }
  return out;
}

class MatrixQuantizer {
 public:
  MatrixQuantizer(Matrix weight, const Recipe& recipe, const Observer& observer)
      : weight_(std::move(weight)), recipe_(recipe), observer_(observer) {}

  QuantizedMatrix run(const std::optional<ArrayView>& inputs) {
    if (inputs) stats_ = read_inputs(*inputs, recipe_, observer_);
    find_scale();
    const RoundingOptions rounding = choose();
    report_stage(observer_, "round", 3, kStages);
    const GroupRanges ranges = ranges_of(weight_, stats_.all.gram);
    require_held_scales(ranges.counts.clamped, "weight");
    LinearRecord record;
    const QuantizedTensor q = round(rounding, ranges, record);
    result_.damping = record.damping.value_or(0);
    result_.rounding = rounding_name(rounding);
    report_stage(observer_, "measure", 4, kStages);
    measure(q);
    store(q);
    return std::move(result_);
  }

 private:
  void find_scale() {
    scale_.assign(static_cast<size_t>(weight_.cols()), 1.0f);
    if (recipe_.scales == ScaleMethod::kNone) return;
    report_stage(observer_, "search scales", 1, kStages);
    const Matrix* const stack[] = {&weight_};
    ScaleSearchOptions options = scale_search_options(recipe_, recipe_.grid);
    InputScale found = search_input_scale(recipe_, kInput, stack, stats_.all, options);
    result_.exponent = found.ratio;
    scale_ = std::move(found.scale);
    multiply_columns(weight_, scale_);
    require_finite(weight_, "weight times input_scale");
    fold_statistics(stats_.all, scale_);
    fold_statistics(stats_.guard, scale_);
    if (!stats_.plain_gram.empty()) {
      ActivationStats plain;
      plain.gram = std::move(stats_.plain_gram);
      fold_statistics(plain, scale_);
      stats_.plain_gram = std::move(plain.gram);
    }
  }

  GroupRanges ranges_of(const Matrix& rows, const Matrix& gram) const {
    LinearRecord unused;
    return choose_ranges(recipe_, rows, gram, recipe_.grid, true, unused);
  }

  RoundingOptions choose() {
    if (stats_.guard.gram.empty()) return recipe_.rounding;
    report_stage(observer_, "choose rounding", 2, kStages);
    RoundingTrial trial = rounding_trial(recipe_);
    trial.grids = {recipe_.grid};
    trial.ranges = [&](const Matrix& rows, const Matrix& gram, size_t) { return ranges_of(rows, gram); };
    const Matrix* const stack[] = {&weight_};
    const RoundingOptions chosen =
        choose_rounding(stack, stats_.all.gram, stats_.guard.gram, stats_.guard_share, trial).front().rounding;
    stats_.guard.gram = Matrix();
    return chosen;
  }

  QuantizedTensor round(const RoundingOptions& rounding, const GroupRanges& ranges, LinearRecord& record) const {
    std::optional<GptqFactor> factor;
    if (rounding.feedback) factor = make_gptq_factor(stats_.all.gram, rounding.gptq);
    return round_linear_as(rounding, weight_, stats_.all.gram, ranges, recipe_.grid, factor ? &*factor : nullptr,
                           record);
  }

  void measure(const QuantizedTensor& q) {
    const Matrix& gram = stats_.plain_gram.empty() ? stats_.all.gram : stats_.plain_gram;
    const LinearErrors errors = linear_errors(weight_, q, gram.empty() ? nullptr : &gram, scale_);
    result_.weight_error = errors.weight_error;
    if (!gram.empty()) result_.output_error = errors.output_error;
  }

  void store(const QuantizedTensor& q) {
    result_.out_features = q.out_features;
    result_.in_features = q.in_features;
    result_.group_size = q.group_size;
    result_.bits = q.bits;
    result_.codes = copy_array(ElementType::kU8, {q.out_features, q.in_features}, q.codes.data());
    result_.scales = copy_array(ElementType::kF16, {q.out_features, q.groups()}, q.scales.data());
    result_.zeros = copy_array(ElementType::kU8, {q.out_features, q.groups()}, q.zeros.data());
    result_.input_scale = copy_array(ElementType::kF32, {q.in_features}, scale_.data());
  }

  Matrix weight_;  // scaled by scale_ once that is found
  const Recipe& recipe_;
  const Observer& observer_;
  InputStats stats_;  // of the scaled inputs, once scale_ is found
  std::vector<float> scale_;
  QuantizedMatrix result_;
};

// Dense bytes of a matrix of codes or zeros.
std::vector<uint8_t> load_bytes(const ArrayView& array, const char* name, const std::vector<int64_t>& sizes,
                                const char* shape) {
  expect_type(array, name, ElementType::kU8);
  expect_shape(array, name, sizes, shape);
  const std::vector<int64_t> strides = strides_of(array);
  std::vector<uint8_t> out;
  out.reserve(static_cast<size_t>(array.shape[0] * array.shape[1]));
  const auto* in = static_cast<const uint8_t*>(array.data);
  for (int64_t r = 0; r < array.shape[0]; ++r) {
    for (int64_t c = 0; c < array.shape[1]; ++c) out.push_back(in[r * strides[0] + c * strides[1]]);
  }
  return out;
}

}  // namespace

QuantizedMatrix quantize_matrix(const ArrayView& weight, const std::optional<ArrayView>& inputs,
                                const MatrixOptions& options, const Observer& observer) try {
  const ThreadCount thread_count;
  const Recipe recipe = recipe_of(options);
  expect_float(weight, "weight");
  expect_shape(weight, "weight", {-1, -1}, "[out_features, in_features]");
  if (inputs) {
    if (const int64_t width = expect_activations(*inputs, "inputs"); width != weight.shape[1]) {
      throw ArgumentError(
          "inputs",
          fmt::format("inputs: expected in_features {} as in weight [out_features, in_features] = [{}, {}], found {}",
                      weight.shape[1], weight.shape[0], weight.shape[1], width));
    }
  } else if (needs_gram(recipe)) {
    throw ArgumentError(
        "inputs", fmt::format("inputs: method {} needs inputs of the weight, [B, T, {}] or [tokens, {}]; found none",
                              name_of(options.method), weight.shape[1], weight.shape[1]));
  }
  QuantizedMatrix result = MatrixQuantizer(load_matrix(weight, "weight"), recipe, observer).run(inputs);
  result.method = options.method;
  result.scheme = options.scheme;
  return result;
} catch (...) {
  rethrow_as_error("quantize_matrix");
}

Array QuantizedMatrix::dequantize(ElementType type) const {
  return dequantize_matrix(codes, scales, zeros, input_scale, group_size, type);
}

Array dequantize_matrix(const ArrayView& codes, const ArrayView& scales, const ArrayView& zeros,
                        const std::optional<ArrayView>& input_scale, int64_t group_size, ElementType type) try {
  const ThreadCount thread_count;
  expect_group_size(group_size, true);
  expect_type(codes, "codes", ElementType::kU8);
  expect_shape(codes, "codes", {-1, -1}, "[N, K]");
  QuantizedTensor q;
  q.out_features = codes.shape[0];
  q.in_features = codes.shape[1];
  q.group_size = group_size < 0 ? q.in_features : group_size;
  q.bits = 8;
  q.symmetric = false;
  q.codes = load_bytes(codes, "codes", {q.out_features, q.in_features}, "[N, K]");
  q.zeros = load_bytes(zeros, "zeros", {q.out_features, q.groups()}, "[N, G]");
  expect_float(scales, "scales");
  expect_shape(scales, "scales", {q.out_features, q.groups()}, "[N, G]");
  const Matrix kept = load_matrix(scales, "scales");
  for (const float s : kept.values()) {
    if (round_to_f16(s) != s) {
      throw ArgumentError("scales", fmt::format("scales: expected values that float16 holds, found {}", s));
    }
    q.scales.push_back(f32_to_f16(s));
  }
  Matrix weight = dequantize(q);
  if (input_scale) {
    expect_float(*input_scale, "input_scale");
    expect_shape(*input_scale, "input_scale", {q.in_features}, "[K]");
    const std::vector<float> scale = load_vector(*input_scale, "input_scale");
    for (size_t k = 0; k < scale.size(); ++k) {
      if (!(scale[k] > 0))
        throw NumericError(fmt::format("input_scale: expected values above 0, found {} at [{}]", scale[k], k));
    }
    for (int64_t n = 0; n < weight.rows(); ++n) {
      for (int64_t k = 0; k < weight.cols(); ++k) weight(n, k) /= scale[static_cast<size_t>(k)];
    }
  }
  return to_type(weight, type, "weight");
} catch (...) {
  rethrow_as_error("dequantize_matrix");
}

}  // namespace metal_marlin
