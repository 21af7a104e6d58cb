#include <gtest/gtest.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>
#include <vector>

#include "arrays/random_array.h"
#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "formats/safetensors.h"
#include "kernels/linear_algebra.h"
#include "pack/native.h"
#include "quantize/rounding/rtn.h"
#include "scale/salient.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

// The formula of awq.h in float32, from the bits.
std::vector<float> restore(const AWQResult& r) {
  const int64_t k = r.meta.in_features;
  const int64_t n = r.meta.out_features;
  std::vector<float> out(static_cast<size_t>(k * n));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const auto code = static_cast<float>(r.Q.as<uint32_t>()[i / 8 * n + j] >> (4 * (i % 8)) & 15u);
      const int64_t at = i / r.meta.group_size * n + j;
      const float w = (code - 8 - f16_to_f32(r.zeros.as<uint16_t>()[at])) * f16_to_f32(r.scales.as<uint16_t>()[at]);
      out[static_cast<size_t>(i * n + j)] = w / f16_to_f32(r.q_scale.as<uint16_t>()[i]);
    }
  }
  return out;
}

TEST(Awq, RestoresWhatTheFormulaSays) {
  for (const char* scheme : {"sym", "asym"}) {
    for (const int64_t k : {256, 200, 13}) {
      const Array w = normal({k, 24}, 0.1, 1);
      const Array x = normal({2, 64, k}, 1, 2);
      const AWQResult r = awq_quantize(w.view(), x.view(), 64, 0.02, "rms", scheme);
      EXPECT_EQ(r.Q.shape, (std::vector<int64_t>{r.meta.padded_in_features / 8, 24}));
      EXPECT_EQ(r.scales.shape, (std::vector<int64_t>{(k + 63) / 64, 24}));
      EXPECT_EQ(r.q_scale.shape, (std::vector<int64_t>{k}));
      const Array d =
          awq_dequantize(r.Q.view(), r.scales.view(), r.zeros.view(), r.q_scale.view(), r.meta, ElementType::kF32);
      const std::vector<float> expected = restore(r);
      double error = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_EQ(d.as<float>()[i], expected[i]) << scheme << " " << k << " " << i;
        error += std::pow(static_cast<double>(expected[i]) - w.as<float>()[i], 2);
      }
      EXPECT_NEAR(r.quantization_error, error, 1e-4 * error);
    }
  }
}

// |X (W' - W)| / |X W| in float64.
double output_error(const Array& w, const Array& x, const std::vector<float>& restored) {
  const int64_t k = w.shape[0];
  const int64_t n = w.shape[1];
  double error = 0;
  double output = 0;
  for (int64_t t = 0; t < x.elements() / k; ++t) {
    for (int64_t j = 0; j < n; ++j) {
      double e = 0;
      double y = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double value = x.as<float>()[t * k + i];
        e += value * (static_cast<double>(restored[static_cast<size_t>(i * n + j)]) - w.as<float>()[i * n + j]);
        y += value * w.as<float>()[i * n + j];
      }
      error += e * e;
      output += y * y;
    }
  }
  return std::sqrt(error / output);
}

TEST(Awq, MeasuresTheOutputError) {
  for (const int64_t n : {24, 700, 1100}) {
    Array w = normal({80, n}, 0.1, 21);
    for (int64_t i = 0; i < 80; ++i) w.as<float>()[i * n + 3] *= 50;  // an output that outweighs the others
    const Array x = normal({3, 50, 80}, 1, 22);
    const AWQResult r = awq_quantize(w.view(), x.view(), 32);
    const double expected = output_error(w, x, restore(r));
    EXPECT_NEAR(r.meta.output_error.value(), expected, 1e-4 * expected) << n;
  }
}

// What the stages give, called one by one.
TEST(Awq, IsWhatTheStagesGive) {
  const int64_t k = 192, n = 70, group = 64;
  const Array w = normal({k, n}, 0.1, 31);
  Array x = normal({600, k}, 1, 32);
  for (int64_t t = 0; t < 600; ++t) {
    for (int64_t c = 5; c < k; c += 40) x.as<float>()[t * k + c] *= 15;
  }
  for (const bool symmetric : {true, false}) {
    const AWQResult r = awq_quantize(w.view(), x.view(), group, 0.02, "max", symmetric ? "sym" : "asym");
    Matrix weight(n, k);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < n; ++j) weight(j, i) = w.as<float>()[i * n + j];
    }
    StatsCollector collector;
    collector.add(LinearInput::kQkv, x.as<float>(), 600, k);
    ActivationStats stats = std::move(collector.finish()[0]);
    ScaleSearchOptions options;
    options.statistic = Statistic::kMax;
    options.grid = {4, symmetric, group};
    options.range.method = RangeChoice::kGram;
    options.range.finalists = symmetric ? 5 : 10;
    const Matrix* const stack[] = {&weight};
    const SalientScaling found = compute_salient_scaling(LinearInput::kQkv, stack, stats, 0.02, options);
    EXPECT_EQ(r.meta.exponent, found.scale.ratio);
    EXPECT_GT(found.channels.size(), 0u);
    std::vector<float> scale;
    for (int64_t i = 0; i < k; ++i) {
      scale.push_back(round_to_f16(found.scale.scale[static_cast<size_t>(i)]));
      ASSERT_EQ(f16_to_f32(r.q_scale.as<uint16_t>()[i]), scale.back());
    }
    multiply_columns(weight, scale);
    scale_gram(stats.gram, scale);
    const QuantizedTensor q =
        quantize_rtn(weight, group_ranges(weight, options.grid, options.range, &stats.gram), options.grid);
    const PackedTensor packed = pack_native(q, "weights");
    EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(r.Q.bytes)), packed.find("weight")->view().bytes));
    EXPECT_TRUE(
        std::ranges::equal(std::as_bytes(std::span(r.scales.bytes)), packed.find("weight.scales")->view().bytes));
  }
}

TEST(Awq, DoesNotDependOnThreads) {
  for (const int64_t n : {96, 1100}) {
    const Array w = normal({512, n}, 0.1, 3);
    const Array x = normal({200, 512}, 1, 4);
    std::optional<ThreadCount> thread_count;
    thread_count.emplace(1);
    const AWQResult one = awq_quantize(w.view(), x.view());
    thread_count.emplace(3);
    const AWQResult three = awq_quantize(w.view(), x.view());
    thread_count.reset();
    EXPECT_EQ(one.Q.bytes, three.Q.bytes);
    EXPECT_EQ(one.scales.bytes, three.scales.bytes);
    EXPECT_EQ(one.q_scale.bytes, three.q_scale.bytes);
    EXPECT_EQ(one.meta.output_error, three.meta.output_error);
  }
}

TEST(Awq, ReadsStridesAndTypes) {
  const int64_t k = 64;
  const int64_t n = 16;
  const Array w = normal({k, n}, 0.1, 5);
  const Array x = normal({32, k}, 1, 6);
  Array turned(ElementType::kF64, {n, k});
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) turned.as<double>()[j * k + (k - 1 - i)] = w.as<float>()[i * n + j];
  }
  const AWQResult a = awq_quantize(w.view(), x.view(), 32);
  const ArrayView view{turned.as<double>() + k - 1, ElementType::kF64, {k, n}, {-1, k}};
  EXPECT_EQ(awq_quantize(view, x.view(), 32).Q.bytes, a.Q.bytes);
}

TEST(Awq, CodesSurvivePacking) {
  Array codes(ElementType::kI8, {20, 3});
  for (int64_t i = 0; i < 60; ++i) codes.as<int8_t>()[i] = static_cast<int8_t>(i % 16 - 8);
  Array ones(ElementType::kF32, {3, 3});
  std::fill_n(ones.as<float>(), 9, 1.0f);
  Array zeros(ElementType::kF32, {3, 3});
  zeros.as<float>()[6] = -3;  // last group of column 0: padding stands for weight 0
  const PackedAWQ packed = pack_awq_weights(codes.view(), ones.view(), zeros.view(), 8);
  EXPECT_EQ(packed.meta.padded_in_features, 24);
  EXPECT_EQ(packed.packed.as<uint32_t>()[6] >> 28, 5u);
  EXPECT_EQ(unpack_awq_weights(packed.packed.view(), packed.meta).bytes, codes.bytes);
}

TEST(Awq, SalientTiesGoByIndexOfTheArray) {
  const Array w(ElementType::kF32, {10, 10});
  Array stat(ElementType::kF32, {10});
  const SalientMask found = find_salient_weights(w.view(), stat.view(), 0.25);
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(found.mask.as<uint8_t>()[i], i < 25 ? 1 : 0);
}

TEST(Awq, StopsWhenAsked) {
  const Array w = normal({64, 16}, 0.1, 7);
  const Array x = normal({32, 64}, 1, 8);
  for (int stop = 1; stop <= 5; ++stop) {
    int calls = 0;
    Observer observer;
    observer.on_progress = [&](const Progress&) { return ++calls < stop; };
    EXPECT_THROW(awq_quantize(w.view(), x.view(), 32, 0.01, "rms", "sym", observer), Interrupted);
    EXPECT_EQ(calls, stop);
  }
}

TEST(Awq, RefusesWhatIsWrong) {
  const Array w = normal({64, 16}, 0.1, 9);
  const Array x = normal({32, 64}, 1, 10);
  const Array other = normal({32, 63}, 1, 10);
  Array holes = normal({32, 64}, 1, 10);
  holes.as<float>()[70] = std::nanf("");
  EXPECT_THROW(awq_quantize(w.view(), other.view()), ArgumentError);
  EXPECT_THROW(awq_quantize(x.view(), x.view()), ArgumentError);
  EXPECT_THROW(awq_quantize(w.view(), x.view(), 0), ArgumentError);
  EXPECT_THROW(awq_quantize(w.view(), x.view(), 64, 1.5), ArgumentError);
  EXPECT_THROW(awq_quantize(w.view(), x.view(), 64, 0.01, "sum"), ArgumentError);
  try {
    awq_quantize(w.view(), holes.view());
    FAIL();
  } catch (const NumericError& e) {
    EXPECT_NE(std::string(e.what()).find("activations: expected finite float32 values, found nan at [1, 6]"),
              std::string::npos)
        << e.what();
  }
}

TEST(Awq, FileWithHostileHeaders) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "hostile.awq.safetensors";
  Array words(ElementType::kU32, {8, 4});
  Array scales(ElementType::kF16, {3, 4});  // 3 does not divide 64
  const auto bytes = [](const Array& a) { return std::span<const std::byte>(a.bytes); };
  const std::vector<TensorView> tensors = {{"w", DType::kU32, {8, 4}, bytes(words)},
                                           {"w.scales", DType::kF16, {3, 4}, bytes(scales)},
                                           {"w.zeros", DType::kF16, {3, 4}, bytes(scales)}};
  write_safetensors(path, tensors);
  EXPECT_THROW(awq_load(path), FormatError);
  write_safetensors(path, std::span<const TensorView>(tensors).subspan(0, 2));
  EXPECT_THROW(awq_load(path), FormatError);
  write_safetensors(path, std::span<const TensorView>(tensors).subspan(0, 1));
  EXPECT_THROW(awq_load(path), FormatError);
  std::filesystem::remove(path);
}

TEST(Gptq, BeatsRoundingOnCorrelatedInputs) {
  const int64_t k = 256;
  const Array w = normal({k, 32}, 0.1, 11);
  const Array basis = normal({16, k}, 1, 12);
  Array x = normal({512, k}, 0.1, 13);
  const Array weights = normal({512, 16}, 1, 14);
  for (int64_t t = 0; t < 512; ++t) {
    for (int64_t b = 0; b < 16; ++b) {
      for (int64_t c = 0; c < k; ++c)
        x.as<float>()[t * k + c] += weights.as<float>()[t * 16 + b] * basis.as<float>()[b * k + c];
    }
  }
  const GPTQPacked g = gptq_quantize(w.view(), x.view());
  const AWQResult a = awq_quantize(w.view(), x.view(), 128, 0);
  EXPECT_LT(g.meta.output_error.value(), 0.5 * a.meta.output_error.value());
  EXPECT_EQ(g.meta.quant_type, "gptq_int4");
  EXPECT_THROW(gptq_dequantize(a.Q.view(), a.scales.view(), a.zeros.view(), a.meta), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
