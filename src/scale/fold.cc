#include "scale/fold.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "core/counted.h"
#include "core/half.h"
#include "scale/search.h"

namespace metal_marlin {
namespace {

void divide_rows(Linear& linear, std::span<const float> scale) {
  for (int64_t r = 0; r < linear.weight.rows(); ++r) {
    const float s = scale[static_cast<size_t>(r)];
    for (float& w : linear.weight.row(r)) w /= s;
    if (!linear.bias.empty()) linear.bias[static_cast<size_t>(r)] /= s;
  }
}

// Divides the norm and rounds it to f16. `scale` becomes the factor by which the norm was really divided.
void divide_norm(std::vector<float>& weight, std::span<float> scale, bool offset, const Fold& fold) {
  for (size_t i = 0; i < weight.size(); ++i) {
    const float w = offset ? 1.0f + weight[i] : weight[i];
    const float divided = offset ? w / scale[i] - 1.0f : w / scale[i];
    if (!f16_fits(divided))
      throw NumericError(fmt::format("fold {}: norm channel {} leaves the range of f16", fold.name, i));
    weight[i] = round_to_f16(divided);
    const float rounded = offset ? 1.0f + weight[i] : weight[i];
    const float actual = w / rounded;
    if (std::isfinite(actual) && actual > 0) scale[i] = actual;
  }
}

// Takes one scale per channel of v from the scales of o's input channels.
std::vector<float> pool_check(std::span<const float> scale, const ModelConfig& config, const Fold& fold) {
  const int64_t groups = config.num_attention_heads / config.num_key_value_heads;
  std::vector<float> pooled(static_cast<size_t>(config.num_key_value_heads * config.head_dim));
  for (int64_t head = 0; head < config.num_attention_heads; ++head) {
    for (int64_t d = 0; d < config.head_dim; ++d) {
      const float s = scale[static_cast<size_t>(head * config.head_dim + d)];
      float& p = pooled[static_cast<size_t>(head / groups * config.head_dim + d)];
      if (head % groups == 0) {
        p = s;
      } else if (p != s) {
        throw ArgumentError(fmt::format("fold {}: the query heads of kv head {} have different scales for channel {}",
                                        fold.name, head / groups, d));
      }
    }
  }
  return pooled;
}

void check_finite(std::span<const float> values, const Fold& fold, const char* what) {
  for (const float v : values) {
    if (!std::isfinite(v)) throw NumericError(fmt::format("fold {}: {} leaves the range of float32", fold.name, what));
  }
}

}  // namespace

void apply_fold(const Family& family, const ModelConfig& config, const Fold& fold, std::span<float> scale,
                Block& block) {
  if (fold.producer == FoldProducer::kNone || scale.empty()) return;
  size_t expected = static_cast<size_t>(config.hidden_size);
  if (fold.producer == FoldProducer::kVRows)
    expected = static_cast<size_t>(config.num_attention_heads * config.head_dim);
  if (fold.producer == FoldProducer::kUpRows) expected = static_cast<size_t>(config.intermediate_size);
  if (scale.size() != expected) {
    throw ArgumentError(
        fmt::format("fold {}: expected {}, got {}", fold.name, counted(expected, "scale"), scale.size()));
  }
  for (const float s : scale) {
    if (!(s > 0) || !std::isfinite(s)) throw ArgumentError(fmt::format("fold {}: a scale is {}", fold.name, s));
  }
  switch (fold.producer) {
    case FoldProducer::kInputNorm:
      divide_norm(block.norm(NormKind::kInput), scale, family.offset_norm, fold);
      break;
    case FoldProducer::kPreFeedForwardNorm:
      divide_norm(block.norm(NormKind::kPreFeedForward), scale, family.offset_norm, fold);
      break;
    case FoldProducer::kVRows:
      divide_rows(block.linear(LinearKind::kV), pool_check(scale, config, fold));
      check_finite(block.linear(LinearKind::kV).weight.values(), fold, "v");
      break;
    case FoldProducer::kUpRows:
      divide_rows(block.linear(LinearKind::kUp), scale);
      check_finite(block.linear(LinearKind::kUp).weight.values(), fold, "up");
      break;
    case FoldProducer::kNone:
      break;
  }
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    if (input_of(kind) != fold.input) continue;
    Matrix& w = block.linear(kind).weight;
    multiply_columns(w, scale);
    check_finite(w.values(), fold, linear_kind_name(kind));
  }
}

Matrix run_block_once(const Family& family, const ModelConfig& config, int64_t layer, const Block& block,
                      const Matrix& states) {
  Matrix out = states.clone();
  const int64_t length = states.rows();
  BlockForward(family, config).run(layer, block, out, {&length, 1});
  return out;
}

double invariance_error(const Matrix& input, const Matrix& expected, const Matrix& actual) {
  double difference = 0;
  double size = 0;
  for (int64_t i = 0; i < input.size(); ++i) {
    const double d = static_cast<double>(actual.data()[i]) - expected.data()[i];
    const double y = static_cast<double>(expected.data()[i]) - input.data()[i];
    difference += d * d;
    size += y * y;
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

double check_invariance(const Family& family, const ModelConfig& config, int64_t layer, const Block& folded,
                        const ScalePlan& plan, const Matrix& input, const Matrix& expected,
                        const std::function<Block()>& reload) {
  const double error = invariance_error(input, expected, run_block_once(family, config, layer, folded, input));
  if (error < kInvarianceLimit) return error;  // false for NaN too
  std::string broken = "all folds together";
  double worst = 0;
  for (const InputScale& scaled : plan.inputs) {
    for (const Fold& fold : family.folds) {
      if (fold.input != scaled.input || scaled.scale.empty()) continue;
      Block alone = reload();
      std::vector<float> scale = scaled.scale;
      apply_fold(family, config, fold, scale, alone);
      const double e = invariance_error(input, expected, run_block_once(family, config, layer, alone, input));
      if (!(e <= worst)) {
        worst = e;
        broken = fold.name;
      }
    }
  }
  throw NumericError(
      fmt::format("layer {}: folding changed what the block computes: relative difference {:.3g}, expected "
                  "below {:.0e}; the fold that breaks it is \"{}\" ({:.3g} alone)",
                  layer, error, kInvarianceLimit, broken, worst));
}

}  // namespace metal_marlin
