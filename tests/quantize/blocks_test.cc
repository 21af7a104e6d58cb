#include "quantize/blocks/blocks.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <ostream>

#include "quantize/errors.h"
#include "quantize/levels.h"
#include "quantize/reference.h"

namespace metal_marlin {

void PrintTo(const BlockForm& form, std::ostream* out) {
  *out << ggml_type_info(form.type).name;
}

namespace {

using reference::activations;
using reference::gram_of;
using reference::normal_matrix;

constexpr int64_t kInputs = 512;
constexpr double kFloatError = 1e-5;  // of float32 sums beside float64 ones, relative to the loss

// tr(E G E^T) of each row in float64.
std::vector<double> losses(const Matrix& weight, const BlockTensor& tensor, const Matrix& gram, double damping = 0) {
  const Matrix values = dequantize(tensor);
  const int64_t k = weight.cols();
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += gram(i, i) / static_cast<double>(k);
  std::vector<double> out;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    std::vector<double> e;
    for (int64_t i = 0; i < k; ++i) e.push_back(static_cast<double>(weight(r, i)) - values(r, i));
    double loss = reference::quadratic(e, gram, 0);
    for (int64_t i = 0; i < k && damping > 0; ++i) {
      const auto at = static_cast<size_t>(i);
      loss += e[at] * e[at] * (gram(i, i) * damping + (mean > 0 ? 1e-7 * mean : 1.0));
    }
    out.push_back(loss);
  }
  return out;
}
double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double v : values) total += v;
  return total;
}

const Matrix& correlated_gram() {
  static const Matrix gram = gram_of(activations(2 * kInputs, kInputs, 5));
  return gram;
}

class QuantizeToBlocks : public testing::TestWithParam<BlockForm> {
 protected:
  GgmlType type() const { return GetParam().type; }
};

TEST_P(QuantizeToBlocks, EachStageLowersTheLossInTheMean) {
  const Matrix weight = normal_matrix(70, kInputs, 3, 0.05);
  const Matrix& gram = correlated_gram();
  const double plain =
      sum(losses(weight, quantize_to_blocks(weight, gram, type(), {.feedback = false, .passes = 0}), gram));
  const double feedback = sum(losses(weight, quantize_to_blocks(weight, gram, type(), {.passes = 0}), gram));
  const double refined = sum(losses(weight, quantize_to_blocks(weight, gram, type(), {.passes = 2}), gram));
  RecordProperty("feedback", std::to_string(feedback / plain));
  RecordProperty("refined", std::to_string(refined / plain));
  EXPECT_LT(feedback, 0.9 * plain);
  EXPECT_LT(refined, 0.98 * feedback);
}

TEST_P(QuantizeToBlocks, NoPassRaisesTheLossOfARow) {
  const Matrix weight = normal_matrix(20, kInputs, 4, 0.05);
  const Matrix& gram = correlated_gram();
  for (const bool feedback : {false, true}) {
    std::vector<double> before;
    for (const int passes : {0, 1, 2, 4}) {
      const std::vector<double> now = losses(
          weight, quantize_to_blocks(weight, gram, type(), {.feedback = feedback, .passes = passes}), gram, 0.01);
      for (size_t r = 0; r < before.size(); ++r) EXPECT_LE(now[r], before[r] * (1 + kFloatError)) << r;
      before = now;
    }
  }
}

TEST_P(QuantizeToBlocks, ErrorsOfTheValuesAreThoseOfFloat64) {
  const Matrix weight = normal_matrix(9, kInputs, 8, 0.05);
  const Matrix& gram = correlated_gram();
  const BlockTensor tensor = quantize_to_blocks(weight, gram, type());
  const ValueErrors errors = value_errors(weight, dequantize(tensor), &gram);
  const double want = sum(losses(weight, tensor, gram));
  EXPECT_NEAR(errors.squared_output_error, want, kFloatError * 10 * want);
}

// Without feedback every weight has the nearest of the values that its segment can take.
TEST_P(QuantizeToBlocks, PlainRoundingIsToNearest) {
  const BlockForm& form = GetParam();
  const Matrix weight = normal_matrix(5, kInputs, 12, 0.05);
  const BlockTensor tensor = quantize_to_blocks(weight, correlated_gram(), type(), {.feedback = false, .passes = 0});
  const Matrix values = dequantize(tensor);
  BlockFields fields = unpack_blocks(type(), tensor.bytes);
  std::vector<float> least(static_cast<size_t>(weight.size()), std::numeric_limits<float>::infinity());
  for (int code = 0; code < 1 << form.bits; ++code) {
    std::fill(fields.codes.begin(), fields.codes.end(), static_cast<uint8_t>(code));
    const Matrix all = dequantize({type(), weight.rows(), weight.cols(), pack_blocks(type(), fields)});
    for (size_t i = 0; i < least.size(); ++i)
      least[i] = std::min(least[i], std::fabs(all.values()[i] - weight.values()[i]));
  }
  for (size_t i = 0; i < least.size(); ++i) {
    // Two values may be equally near but for the rounding of w / s.
    EXPECT_LE(std::fabs(values.values()[i] - weight.values()[i]), least[i] + 1e-6f) << i;
  }
}

TEST_P(QuantizeToBlocks, BytesDoNotDependOnThreads) {
  const Matrix weight = normal_matrix(130, 256, 6);
  const Matrix gram = gram_of(activations(300, 256, 1));
  EXPECT_TRUE(reference::same_bytes_for_threads([&] { return quantize_to_blocks(weight, gram, type()).bytes; }));
}

TEST_P(QuantizeToBlocks, AFactorOfTheInputGivesTheSameBytes) {
  const Matrix weight = normal_matrix(3, 256, 6);
  const Matrix gram = gram_of(activations(300, 256, 1));
  const BlockRounding options{.gptq = {.act_order = false, .damping = 0.02}};
  const GptqFactor factor = make_gptq_factor(gram, options.gptq);
  EXPECT_EQ(quantize_to_blocks(weight, gram, type(), options, &factor).bytes,
            quantize_to_blocks(weight, gram, type(), options).bytes);
}

// Weights that hurt: the values stay finite, near the weights, and exact where the type can hold them.
TEST_P(QuantizeToBlocks, HostileWeights) {
  const Matrix gram = gram_of(activations(300, 256, 1));
  // tr(E G E^T) / tr(W G W^T), in float64.
  const auto relative_error = [&](const Matrix& weight) {
    const BlockTensor tensor = quantize_to_blocks(weight, gram, type());
    EXPECT_TRUE(blocks_are_finite(type(), tensor.bytes));
    const double error = sum(losses(weight, tensor, gram));
    const BlockTensor nothing{GgmlType::kQ8_0, weight.rows(), weight.cols(),
                              std::vector<std::byte>(static_cast<size_t>(weight.size() / 32 * 34))};
    const double size = sum(losses(weight, nothing, gram));
    return size == 0 ? error : error / size;
  };
  EXPECT_EQ(relative_error(Matrix(3, 256)), 0) << "zeros";
  const auto filled = [&](auto&& fn) {
    Matrix weight = normal_matrix(2, 256, 9);
    for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = fn(weight.data()[i], i);
    return weight;
  };
  // Plain rounding of normal weights to 4 bits leaves about 0.01 of their size.
  constexpr double kNear = 0.01;
  EXPECT_LT(relative_error(normal_matrix(1, 256, 2)), kNear) << "one row";
  EXPECT_LT(relative_error(filled([](float, int64_t) { return 0.25f; })), 1e-4) << "all equal";
  EXPECT_LT(relative_error(filled([](float w, int64_t) { return -std::fabs(w); })), kNear) << "negative";
  EXPECT_LT(relative_error(filled([](float w, int64_t) { return std::fabs(w) + 1; })), kNear) << "positive";
  EXPECT_LT(relative_error(filled([](float w, int64_t i) { return i < 32 ? 0.0f : w; })), kNear)
      << "a segment of zeros";
  EXPECT_LT(relative_error(filled([](float w, int64_t i) { return i % 256 == 40 ? 30.0f : w; })), kNear)
      << "an outlier";
  EXPECT_LT(relative_error(filled([](float w, int64_t) { return w * 1e-4f; })), kNear) << "subnormal scales";
  EXPECT_LT(relative_error(filled([](float w, int64_t) { return w * 1e4f; })), kNear) << "large";
  // Beyond what f16 scales can hold: as near as they come.
  EXPECT_LE(relative_error(filled([](float w, int64_t) { return w * 1e9f; })), 1) << "huge";
  EXPECT_LE(relative_error(filled([](float w, int64_t) { return w * 1e30f; })), 1) << "beyond";
  EXPECT_LE(relative_error(filled([](float w, int64_t) { return w * 1e-12f; })), 1.01) << "below";
}

TEST_P(QuantizeToBlocks, AGramOfZerosOrWithDeadChannels) {
  const Matrix weight = normal_matrix(4, 256, 2);
  const Matrix near = dequantize(quantize_to_blocks(weight, Matrix(256, 256), type()));
  Matrix x = activations(300, 256, 1);
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t k = 0; k < 100; ++k) x(t, k) = 0;
  }
  const Matrix dead = dequantize(quantize_to_blocks(weight, gram_of(x), type()));
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t k = 0; k < 256; ++k) {
      // Half a step of 4 bits over some three deviations to either side, with the scale found for all of the segment.
      EXPECT_LT(std::fabs(near(r, k) - weight(r, k)), 0.5f);
      if (k < 96) EXPECT_LT(std::fabs(dead(r, k) - weight(r, k)), 0.5f) << k;
    }
  }
}

TEST_P(QuantizeToBlocks, WrongArgumentsAreRefused) {
  const Matrix gram = gram_of(activations(300, 256, 1));
  Matrix weight = normal_matrix(2, 256, 2);
  EXPECT_THROW(quantize_to_blocks(weight, Matrix(128, 128), type()), ArgumentError);
  EXPECT_THROW(quantize_to_blocks(normal_matrix(2, 240, 2), Matrix(240, 240), type()), ArgumentError);
  EXPECT_THROW(quantize_to_blocks(Matrix(), Matrix(), type()), ArgumentError);
  EXPECT_THROW(quantize_to_blocks(weight, gram, type(), {.passes = -1}), ArgumentError);
  const GptqFactor other = make_gptq_factor(gram_of(activations(200, 128, 1)));
  EXPECT_THROW(quantize_to_blocks(weight, gram, type(), {}, &other), ArgumentError);
  weight(1, 7) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(quantize_to_blocks(weight, gram, type()), NumericError);
}

INSTANTIATE_TEST_SUITE_P(Types, QuantizeToBlocks, testing::ValuesIn(kBlockForms),
                         [](const auto& tested) { return std::string(ggml_type_info(tested.param.type).name); });

// Codes by feedback for levels, against the loop over single values of quantize/levels.h with the same scales.
TEST(QuantizeToBlocksTypes, FeedbackWithLevelsIsThatOfTheScalarLoop) {
  const Matrix weight = normal_matrix(40, 256, 13, 0.05);
  const Matrix gram = gram_of(activations(300, 256, 1));
  const GptqFactor factor = make_gptq_factor(gram);
  const BlockTensor tensor = quantize_to_blocks(weight, gram, GgmlType::kIQ4_NL, {.passes = 0}, &factor);
  const BlockFields fields = unpack_blocks(GgmlType::kIQ4_NL, tensor.bytes);
  LevelTable table;
  table.values.assign(16, 0.0f);
  for (size_t i = 0; i < kBlockLevels.size(); ++i) {
    table.levels.push_back(kBlockLevels[i]);
    table.codes.push_back(static_cast<uint8_t>(i));
    table.values[i] = kBlockLevels[i];
  }
  const LevelTensor want = gptq_to_levels(weight, factor, {weight.rows(), 256, 32, fields.d, 0}, table);
  // A value near the middle between two levels may go either way, and then the rest of its row differs.
  int64_t equal_rows = 0;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    equal_rows +=
        std::equal(want.codes.begin() + r * 256, want.codes.begin() + (r + 1) * 256, fields.codes.begin() + r * 256)
            ? 1
            : 0;
  }
  EXPECT_GE(equal_rows, weight.rows() * 9 / 10);
}

TEST(QuantizeToBlocksTypes, OthersAreRefused) {
  EXPECT_THROW(quantize_to_blocks(normal_matrix(2, 256, 2), Matrix(256, 256), GgmlType::kQ2_K), ArgumentError);
  EXPECT_THROW(quantize_to_blocks(normal_matrix(2, 256, 2), Matrix(256, 256), GgmlType::kF16), ArgumentError);
}

// What is on a grid already, with its ends in use, comes back as it is.
TEST(QuantizeToBlocksTypes, FindTheGridOfTheSource) {
  const Matrix& gram = correlated_gram();
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0}) {
    const BlockForm form = *block_form(type);
    BlockFields fields(form, 6 * kInputs / form.block);
    Random random(11);
    for (size_t i = 0; i < fields.codes.size(); ++i) {
      const auto top = static_cast<uint64_t>(1 << form.bits);
      const size_t place = i % static_cast<size_t>(form.block);
      fields.codes[i] = static_cast<uint8_t>(place == 3 ? 0 : place == 20 ? top - 1 : random.below(top));
    }
    for (uint16_t& d : fields.d)
      d = f32_to_f16(static_cast<float>(0.01 * (random.uniform() + 0.5) * (random.below(2) == 0 ? -1 : 1)));
    for (uint16_t& m : fields.m) m = f32_to_f16(static_cast<float>(random.normal()));
    const BlockTensor source{type, 6, kInputs, pack_blocks(type, fields)};
    const Matrix weight = dequantize(source);
    const BlockTensor again = quantize_to_blocks(weight, gram, type);
    const Matrix values = dequantize(again);
    const double size = value_errors(Matrix(6, kInputs), weight, &gram).squared_output_error;
    EXPECT_LT(value_errors(weight, values, &gram).squared_output_error, 1e-6 * size) << ggml_type_info(type).name;
  }
}

}  // namespace
}  // namespace metal_marlin
