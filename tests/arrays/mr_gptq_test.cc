// Quantizers on tables of levels, Hessians of layers, GPTQMetal and the choice of precisions: what Python's tests do
// not reach.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/mr_gptq.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "arrays/random_array.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

// Inputs that share a direction, in channels of unlike strength.
Array inputs(int64_t tokens, int64_t k, uint64_t seed) {
  Array x = normal({tokens, k}, 1, seed);
  Random random(seed + 1);
  std::vector<double> strength(static_cast<size_t>(k));
  for (double& s : strength) s = std::exp(random.normal());
  for (int64_t t = 0; t < tokens; ++t) {
    const double common = random.normal();
    for (int64_t c = 0; c < k; ++c) {
      float& v = x.as<float>()[t * k + c];
      v = static_cast<float>((v + common) * strength[static_cast<size_t>(c)]);
    }
  }
  return x;
}

double output_error(const Array& w, const Array& q, const Array& h) {
  const int64_t k = w.shape[1];
  double lost = 0;
  double whole = 0;
  for (int64_t n = 0; n < w.shape[0]; ++n) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const double g = h.as<double>()[i * k + j];
        const float* a = w.as<float>() + n * k;
        const float* b = q.as<float>() + n * k;
        lost += (static_cast<double>(b[i]) - a[i]) * g * (static_cast<double>(b[j]) - a[j]);
        whole += static_cast<double>(a[i]) * g * a[j];
      }
    }
  }
  return std::sqrt(lost / whole);
}

TEST(MrGptq, ErrorsAreThoseOfTheStoredWeights) {
  const Array w = normal({37, 90}, 0.1, 1);
  const Array h = compute_hessian(inputs(400, 90, 2).view());
  for (const auto format : {QuantizationFormat::kFP4, QuantizationFormat::kINT4, QuantizationFormat::kNF4}) {
    for (const bool rotated : {true, false}) {
      const MRGPTQQuantizer quantizer(4, format, 32, rotated, 16);
      const MRGPTQResult r = quantizer.quantize_layer(w.view(), h.view());
      EXPECT_EQ(r.packed.shape, (std::vector<int64_t>{37, 12}));
      EXPECT_EQ(r.scales.shape, (std::vector<int64_t>{37, 3}));
      EXPECT_EQ(r.hadamard_block_size, rotated ? 16 : 0);
      const Array q =
          mr_gptq_dequantize(r.packed.view(), r.scales.view(), format, 90, r.group_size, r.hadamard_block_size);
      EXPECT_NEAR(output_error(w, q, h), r.output_error.value(), 1e-3 * *r.output_error);
      const MRGPTQResult plain = quantizer.quantize_layer(w.view());
      EXPECT_FALSE(plain.output_error);
      const Array p = mr_gptq_dequantize(plain.packed.view(), plain.scales.view(), format, 90, plain.group_size,
                                         plain.hadamard_block_size);
      EXPECT_LT(r.output_error.value(), 0.7 * output_error(w, p, h))
          << quantization_format_name(format) << " " << rotated;
      EXPECT_LT(plain.rmse, r.rmse);
      // In its own basis it is what the rotated inputs meet.
      const Array own =
          mr_gptq_dequantize(r.packed.view(), r.scales.view(), format, 90, r.group_size, r.hadamard_block_size, false);
      const Array back = rotated ? hadamard_rotate(own.view(), 16) : own;
      for (int64_t i = 0; i < q.elements(); ++i) ASSERT_NEAR(back.as<float>()[i], q.as<float>()[i], 1e-6);
    }
  }
}

TEST(MrGptq, OutliersAreSpread) {
  Array w = normal({64, 128}, 0.02, 3);
  for (int64_t n = 0; n < 64; ++n) w.as<float>()[n * 128 + n % 128] = 1;  // one weight of 50 deviations in each row
  const MRGPTQResult rotated = MRGPTQQuantizer(4, QuantizationFormat::kINT4, 128).quantize_layer(w.view());
  const MRGPTQResult plain = MRGPTQQuantizer(4, QuantizationFormat::kINT4, 128, false).quantize_layer(w.view());
  EXPECT_GT(rotated.kurtosis, 100);
  EXPECT_LT(rotated.rmse, 0.8 * plain.rmse);
  EXPECT_EQ(
      MRGPTQQuantizer(4, QuantizationFormat::kINT4, 128, true, 64, 1e9).quantize_layer(w.view()).hadamard_block_size,
      0);
  EXPECT_EQ(
      MRGPTQQuantizer(4, QuantizationFormat::kINT4, 128, true, 64, 50.0).quantize_layer(w.view()).hadamard_block_size,
      64);
}

TEST(MrGptq, Fp4RoundTripAndThreads) {
  const Array w = normal({130, 70}, 0.1, 4);
  const Array h = compute_hessian(inputs(300, 70, 5).view());
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const FP4GPTQResult one = FP4GPTQQuantizer(32).quantize_weight(w.view(), h.view());
  thread_count.emplace(3);
  const FP4GPTQResult three = FP4GPTQQuantizer(32).quantize_weight(w.view(), h.view());
  thread_count.reset();
  EXPECT_EQ(one.packed.bytes, three.packed.bytes);
  EXPECT_EQ(one.output_error, three.output_error);
  const Array q = dequantize_fp4_gptq(one.packed.view(), one.scales.view(), 130, 32, ElementType::kF32);
  const std::vector<float> levels = quantization_levels(QuantizationFormat::kFP4);
  double mse = 0;
  for (int64_t n = 0; n < 130; ++n) {
    for (int64_t k = 0; k < 70; ++k) {
      const auto code = static_cast<size_t>(one.quant_indices.as<int8_t>()[k * 130 + n]);
      const float value = levels[code] * f16_to_f32(one.scales.as<uint16_t>()[k / 32 * 130 + n]);
      ASSERT_EQ(q.as<float>()[n * 70 + k], value);
      mse += std::pow(static_cast<double>(value) - w.as<float>()[n * 70 + k], 2);
    }
  }
  EXPECT_NEAR(one.mse, mse / (130 * 70), 1e-9);
  Observer observer;
  observer.on_progress = [](const Progress&) { return false; };
  EXPECT_THROW(FP4GPTQQuantizer().quantize_weight(w.view(), h.view(), observer), Interrupted);
}

TEST(MrGptq, CollectorSumsMergesAndKeepsOutBadBatches) {
  const Array x = inputs(500, 24, 6);
  const Array whole = compute_hessian(x.view());
  HessianCollector a;
  HessianCollector b(24);
  a.accumulate({x.as<float>(), ElementType::kF32, {200, 24}}, "q");
  b.accumulate({x.as<float>() + 200 * 24, ElementType::kF32, {3, 100, 24}}, "q");
  b.accumulate(x.view(), "v");
  Array bad = normal({5000, 24}, 1, 7);
  bad.as<float>()[4999 * 24] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(a.accumulate(bad.view(), "q"), NumericError);
  a.merge(b);
  EXPECT_EQ(a.layer_names(), (std::vector<std::string>{"q", "v"}));
  EXPECT_EQ(a.n_samples("q"), 500);
  EXPECT_EQ(a.memory_bytes(), 2u * 24 * 24 * 8);
  for (const char* layer : {"q", "v"}) {
    const Array h = a.get_hessian(0, layer);
    for (int64_t i = 0; i < h.elements(); ++i) ASSERT_NEAR(2 * h.as<double>()[i], whole.as<double>()[i], 1e-10);
  }
  EXPECT_THROW(b.accumulate(normal({5, 23}, 1, 8).view(), "o"), ArgumentError);
  EXPECT_THROW(a.accumulate(normal({5, 23}, 1, 8).view(), "q"), ArgumentError);
  EXPECT_THROW(a.get_hessian(0.01, "o"), ArgumentError);
  a.reset();
  EXPECT_EQ(a.memory_bytes(), 0u);
}

TEST(MrGptq, MetalIsStaticGroupsOnIntegers) {
  const Array w = normal({20, 70}, 0.1, 9);
  const Array x = inputs(300, 70, 10);
  const Array h = GPTQMetal().compute_hessian(x.view());
  EXPECT_EQ(h.bytes, compute_hessian_metal(x.view()).bytes);
  const GPTQMetal::Quantized q = GPTQMetal().quantize_weight_gptq(w.view(), h.view(), 3, 32);
  EXPECT_EQ(q.scales.shape, (std::vector<int64_t>{3, 20}));
  for (int64_t n = 0; n < 20; ++n) {
    for (int64_t k = 0; k < 70; ++k) {
      const float steps = q.weight.as<float>()[n * 70 + k] / q.scales.as<float>()[k / 32 * 20 + n];
      ASSERT_NEAR(steps, std::rint(steps), 1e-4);
      ASSERT_LE(std::fabs(steps + 0.5), 3.51);
    }
  }
  EXPECT_LT(output_error(w, q.weight, h), 0.7 * output_error(w, quantize_rtn(w.view(), 3, 32).Q, h));
  const Array l = GPTQMetal().cholesky_decompose(h.view(), 0.5);
  for (int64_t i = 0; i < 70; ++i) {
    for (int64_t j = 0; j < 70; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < 70; ++c) sum += l.as<double>()[i * 70 + c] * l.as<double>()[j * 70 + c];
      ASSERT_NEAR(sum, h.as<double>()[i * 70 + j] + (i == j ? 0.5 : 0), 1e-9);
      if (j > i) {
        ASSERT_EQ(l.as<double>()[i * 70 + j], 0);
      }
    }
  }
  EXPECT_THROW(GPTQMetal().cholesky_decompose(Array(ElementType::kF64, {3, 3}).view(), 0), NumericError);
}

// All combinations of small profiles: the choice keeps the bound, and none that keeps it loses less.
TEST(MixedPrecision, TheChoiceIsTheOptimum) {
  Random random(11);
  for (int round = 0; round < 30; ++round) {
    std::vector<LayerSensitivity> profile(4);
    double weights = 0;
    for (LayerSensitivity& s : profile) {
      s.weights = 1000 * static_cast<int64_t>(1 + random.below(4));
      weights += static_cast<double>(s.weights);
      double kl = 0.2 + random.uniform();
      for (const Precision p : {Precision::kINT3, Precision::kINT4, Precision::kINT8, Precision::kBF16}) {
        s.costs.push_back({{p, 64}, p == Precision::kBF16 ? 0.0 : kl, -1});
        const double next = kl * (0.1 + 0.3 * random.uniform());
        kl = next;
      }
    }
    const double target = 3.5 + 6 * random.uniform();
    const std::vector<LayerQuantConfig> chosen = choose_precisions(profile, target);
    const auto of = [&](const std::vector<size_t>& at) {
      double bits = 0;
      double kl = 0;
      for (size_t i = 0; i < 4; ++i) {
        bits += bits_per_weight(profile[i].costs[at[i]].config) * static_cast<double>(profile[i].weights);
        kl += profile[i].costs[at[i]].kl.value();
      }
      return std::pair(bits / weights, kl);
    };
    std::vector<size_t> mine;
    for (size_t i = 0; i < 4; ++i) {
      for (size_t c = 0; c < 4; ++c) {
        if (profile[i].costs[c].config == chosen[i]) mine.push_back(c);
      }
      EXPECT_EQ(profile[i].recommended_bits, precision_bits(chosen[i].precision));
    }
    double best = 1e9;
    for (size_t n = 0; n < 256; ++n) {
      const auto [bits, kl] = of({n % 4, n / 4 % 4, n / 16 % 4, n / 64});
      if (bits <= target) best = std::min(best, kl);
    }
    EXPECT_LE(of(mine).first, target + 1e-9);
    EXPECT_NEAR(of(mine).second, best, 1e-12);
  }
  // One step up fits in either of two layers, and the steeper one leaves no room for the other: the steps of most gain
  // per bit, taken one by one, would stop at a loss of 2.9.
  std::vector<LayerSensitivity> steps(2);
  steps[0].weights = 1000;
  steps[0].costs = {{{Precision::kINT4, 64}, 1, -1}, {{Precision::kINT8, 64}, 0, -1}};
  steps[1].weights = 1500;
  steps[1].costs = {{{Precision::kINT4, 64}, 2.9, -1}, {{Precision::kINT8, 64}, 1.5, -1}};
  const double room = 4.25 + 1500 * 4 / 2500.0;
  EXPECT_EQ(choose_precisions(steps, room)[1].precision, Precision::kINT8);
  EXPECT_EQ(steps[0].recommended_bits, 4);
  EXPECT_EQ(steps[1].recommended_format, "int8");
  // A target that the costs reach exactly, in fractions of a bit.
  for (LayerSensitivity& s : steps) {
    s.weights = 7;
    for (PrecisionCost& c : s.costs) c.config.group_size = 3;
  }
  EXPECT_EQ(choose_precisions(steps, 4 + 16 / 3.0)[1].precision, Precision::kINT4);
  EXPECT_EQ(choose_precisions(steps, 8 + 16 / 3.0)[0].precision, Precision::kINT8);
  std::vector<LayerSensitivity> none(1);
  none[0].weights = 1;
  EXPECT_THROW(choose_precisions(none, 4), ArgumentError);
}

TEST(MixedPrecision, RolesValuesAndBits) {
  for (const auto& [name, role] : {std::pair{"model.layers.3.mlp.gate_proj.weight", "mlp_gate"},
                                   {"model.layers.3.mlp.gate.weight", "moe_router"},
                                   {"model.layers.3.mlp.router.layer.weight", "moe_router"},
                                   {"model.layers.3.mlp.experts.7.down_proj.weight", "moe_experts"},
                                   {"model.norm.weight", "norms"},
                                   {"model.layers.0.self_attn.q_norm.weight", "norms"},
                                   {"model.embed_tokens.weight", "embeddings"},
                                   {"lm_head.weight", "lm_head"},
                                   {"model.layers.0.self_attn.o_proj", "attention_out"},
                                   {"model.layers.0.mlp.shared_expert.up_proj.weight", "moe_shared_expert"},
                                   {"something.weight", "default"},
                                   {"", "default"}}) {
    EXPECT_EQ(layer_role(name), role) << name;
  }
  EXPECT_DOUBLE_EQ(bits_per_weight({Precision::kFP4, 64}), 4.25);
  EXPECT_DOUBLE_EQ(bits_per_weight({Precision::kINT4, 64, false}), 4 + 20.0 / 64);
  EXPECT_DOUBLE_EQ(bits_per_weight({Precision::kINT3, -1}, 160), 3.1);
  EXPECT_THROW(bits_per_weight({Precision::kINT3, -1}), ArgumentError);
  const Array w = normal({16, 64}, 0.1, 12);
  const Array h = compute_hessian(inputs(200, 64, 13).view());
  const LayerSensitivity s = analyze_layer_sensitivity(w.view(), h.view(), "l", 32);
  ASSERT_EQ(s.costs.size(), 5u);
  for (const PrecisionCost& c : s.costs) {
    EXPECT_FALSE(c.kl);
    EXPECT_NEAR(c.output_error.value(), output_error(w, quantize_values(w.view(), c.config, h.view()), h),
                1e-3 * *c.output_error);
  }
  EXPECT_LT(s.costs[4].output_error.value(), 0.2 * s.costs[1].output_error.value());  // int8, int4
  EXPECT_LT(s.costs[1].output_error, s.costs[0].output_error);                        // int3
}

}  // namespace
}  // namespace metal_marlin
