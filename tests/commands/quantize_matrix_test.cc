#include <gtest/gtest.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/quantize_matrix.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/random.h"

namespace metal_marlin {
namespace {

constexpr int64_t kOut = 64;
constexpr int64_t kIn = 256;
constexpr int64_t kTokens = 1024;

struct Case {
  std::vector<float> weight;  // [kOut, kIn]
  std::vector<float> inputs;  // [kTokens, kIn], neighbouring channels correlated, every 37th an outlier
  std::vector<float> unseen;

  Case() {
    Random random(7);
    const auto fill = [&](std::vector<float>& values, size_t size) {
      values.resize(size);
      for (float& v : values) v = static_cast<float>(random.normal());
    };
    fill(weight, kOut * kIn);
    for (float& w : weight) w *= 0.05f;
    for (std::vector<float>* x : {&inputs, &unseen}) {
      fill(*x, kTokens * kIn);
      for (int64_t t = 0; t < kTokens; ++t) {
        float* row = x->data() + t * kIn;
        for (int64_t k = kIn; k-- > 1;) row[k] = 0.7f * row[k] + 0.7f * row[k - 1];
        for (int64_t k = 0; k < kIn; k += 37) row[k] *= 20;
      }
    }
  }
  ArrayView weight_view() const { return {weight, {kOut, kIn}}; }
  ArrayView input_view() const { return {inputs, {kTokens, kIn}}; }

  // |X (W' - W)^T| / |X W^T| in float64.
  double output_error(const std::vector<float>& values, const std::vector<float>& x) const {
    double error = 0;
    double size = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t n = 0; n < kOut; ++n) {
        double e = 0;
        double y = 0;
        for (int64_t k = 0; k < kIn; ++k) {
          const double v = x[static_cast<size_t>(t * kIn + k)];
          const auto at = static_cast<size_t>(n * kIn + k);
          e += v * (static_cast<double>(values[at]) - weight[at]);
          y += v * weight[at];
        }
        error += e * e;
        size += y * y;
      }
    }
    return std::sqrt(error / size);
  }
};

// The formula of quantize_matrix.h, from the bits.
std::vector<float> restore(const QuantizedMatrix& r) {
  std::vector<float> out;
  const int64_t groups = r.scales.shape[1];
  for (int64_t n = 0; n < r.out_features; ++n) {
    for (int64_t k = 0; k < r.in_features; ++k) {
      const int64_t g = n * groups + k / r.group_size;
      const int step = r.codes.as<uint8_t>()[n * r.in_features + k] - r.zeros.as<uint8_t>()[g];
      const float value = static_cast<float>(step) * f16_to_f32(r.scales.as<uint16_t>()[g]);
      out.push_back(value / r.input_scale.as<float>()[k]);
    }
  }
  return out;
}

std::vector<float> transposed(const Array& a) {  // [K, N] -> [N, K]
  std::vector<float> out;
  for (int64_t n = 0; n < a.shape[1]; ++n) {
    for (int64_t k = 0; k < a.shape[0]; ++k) out.push_back(a.as<float>()[k * a.shape[1] + n]);
  }
  return out;
}

TEST(QuantizeMatrix, RestoresWhatTheFormulaSaysByEachMethod) {
  const Case c;
  for (const Method method : {Method::kAwq, Method::kAwqPaper, Method::kAwqSalient, Method::kGptq, Method::kRtn}) {
    for (const Scheme scheme : {Scheme::kAsymmetric, Scheme::kSymmetric}) {
      MatrixOptions options;
      options.method = method;
      options.scheme = scheme;
      options.group_size = 100;
      const QuantizedMatrix r = quantize_matrix(c.weight_view(), c.input_view(), options);
      EXPECT_EQ(r.scales.shape, (std::vector<int64_t>{kOut, 3}));
      const std::vector<float> expected = restore(r);
      const Array values = r.dequantize();
      ASSERT_EQ(values.shape, (std::vector<int64_t>{kOut, kIn}));
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), values.as<float>()));
      const double error = c.output_error(expected, c.inputs);
      EXPECT_NEAR(r.output_error.value(), error, 1e-3 * error);
      const bool scaled = method != Method::kGptq && method != Method::kRtn;
      EXPECT_EQ(scaled, std::any_of(r.input_scale.as<float>(), r.input_scale.as<float>() + kIn,
                                    [](float s) { return s != 1; }));
    }
  }
}

TEST(QuantizeMatrix, TheRecipeIsTheBestOnUnseenInputs) {
  const Case c;
  const double awq = c.output_error(restore(quantize_matrix(c.weight_view(), c.input_view())), c.unseen);
  ArrayView turned = c.weight_view();
  turned.shape = {kIn, kOut};
  turned.strides = {1, kIn};
  for (const char* scheme : {"sym", "asym"}) {
    const AWQResult salient = awq_quantize(turned, c.input_view(), 128, 0.01, "rms", scheme);
    const GPTQPacked gptq = gptq_quantize(turned, c.input_view(), 128, 0.01, true, scheme);
    const auto error = [&](const Array& values) { return c.output_error(transposed(values), c.unseen); };
    EXPECT_LT(awq, error(awq_dequantize(salient.Q, salient.scales, salient.zeros, salient.q_scale, salient.meta,
                                        ElementType::kF32)));
    EXPECT_LT(awq, error(gptq_dequantize(gptq.Q, gptq.scales, gptq.zeros, gptq.meta, ElementType::kF32)));
  }
}

TEST(QuantizeMatrix, GptqIsGptqQuantize) {
  const Case c;
  ArrayView turned = c.weight_view();
  turned.shape = {kIn, kOut};
  turned.strides = {1, kIn};
  MatrixOptions options;
  options.method = Method::kGptq;
  options.scheme = Scheme::kSymmetric;
  const QuantizedMatrix r = quantize_matrix(c.weight_view(), c.input_view(), options);
  const GPTQPacked gptq = gptq_quantize(turned, c.input_view());
  EXPECT_EQ(restore(r), transposed(gptq_dequantize(gptq.Q, gptq.scales, gptq.zeros, gptq.meta, ElementType::kF32)));
  EXPECT_EQ(r.rounding, "feedback");
}

TEST(QuantizeMatrix, NamesTheWrongArgument) {
  const Case c;
  const auto message = [&](const ArrayView& weight, const std::optional<ArrayView>& inputs,
                           const MatrixOptions& options) -> std::string {
    try {
      quantize_matrix(weight, inputs, options);
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "nothing";
  };
  MatrixOptions options;
  EXPECT_EQ(message(c.weight_view(), {}, options),
            "inputs: method awq needs inputs of the weight, [B, T, 256] or [tokens, 256]; found none");
  EXPECT_EQ(message(c.weight_view(), ArrayView(c.inputs, {2 * kTokens, kIn / 2}), options),
            "inputs: expected in_features 256 as in weight [out_features, in_features] = [64, 256], found 128");
  options.bits = 5;
  EXPECT_EQ(message(c.weight_view(), c.input_view(), options), "bits: expected 3, 4 or 8, found 5");
  options = {};
  options.damping = 2;
  EXPECT_NE(message(c.weight_view(), c.input_view(), options).find("damping: expected"), std::string::npos);
  options = {};
  options.group_size = -2;
  EXPECT_NE(message(c.weight_view(), c.input_view(), options).find("group_size: expected"), std::string::npos);
}

TEST(QuantizeMatrix, ReadsArraysThatWereKept) {
  const Case c;
  const QuantizedMatrix r = quantize_matrix(c.weight_view(), c.input_view());
  EXPECT_EQ(dequantize_matrix(r.codes, r.scales, r.zeros, r.input_scale, r.group_size).bytes, r.dequantize().bytes);
  EXPECT_THROW(dequantize_matrix(r.codes, r.scales, r.zeros, r.input_scale, 64), ArgumentError);
  EXPECT_THROW(dequantize_matrix(r.scales, r.scales, r.zeros, {}, r.group_size), ArgumentError);
  const std::vector<float> zero(kIn);
  EXPECT_THROW(dequantize_matrix(r.codes, r.scales, r.zeros, ArrayView(zero, {kIn}), r.group_size), NumericError);
  EXPECT_THROW(r.dequantize(ElementType::kI8), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
