// One SmolLM2-135M layer, step by step: CPU time per step on one thread and the share of the plain sgemm rate.
#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "core/random.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/clip.h"
#include "quantize/errors.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/rtn.h"
#include "scale/search.h"

namespace metal_marlin {
namespace {

constexpr int64_t kBatch = 4096;  // tokens of one accumulation

Matrix random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  Random random(seed);
  Matrix m(rows, cols);
  for (float& v : m.values()) v = static_cast<float>(random.uniform() + random.uniform() + random.uniform() - 1.5);
  return m;
}

// What an input needs, made once for each number of inputs.
struct InputData {
  ActivationStats stats;
  Matrix inputs;
  std::unique_ptr<GptqFactor> factor;
};
const InputData& input(int64_t k) {
  static std::map<int64_t, InputData> inputs;
  InputData& data = inputs[k];
  if (data.inputs.empty()) {
    data.inputs = random_matrix(kBatch, k, 1);
    data.stats.in_features = k;
    data.stats.tokens = kBatch;
    for (int64_t c = 0; c < k; ++c) data.stats.mean.push_back(std::exp(static_cast<float>(c % 13) / 6.0f));
    for (int64_t t = 0; t < kBatch; ++t) {
      for (int64_t c = 0; c < k; ++c) data.inputs(t, c) *= data.stats.mean[static_cast<size_t>(c)];
    }
    data.stats.gram = Matrix(k, k);
    gram_accumulate(data.inputs.data(), kBatch, k, data.stats.gram);
    gram_finish(data.stats.gram, kBatch);
    data.factor = std::make_unique<GptqFactor>(make_gptq_factor(data.stats.gram));
  }
  return data;
}

void report(benchmark::State& state, double multiply_adds) {
  state.counters["GMAC/s"] = benchmark::Counter(multiply_adds * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(blas_kernel_name());
}

void sgemm_square(benchmark::State& state) {
  const int64_t n = state.range(0);
  const Matrix a = random_matrix(n, n, 1);
  Matrix c(n, n);
  for (auto _ : state) sgemm_tile(false, true, n, n, n, 1.0f, a.data(), n, a.data(), n, 0.0f, c.data(), n);
  report(state, static_cast<double>(n) * static_cast<double>(n * n));
}
BENCHMARK(sgemm_square)->Arg(1024)->Arg(2048)->Unit(benchmark::kMillisecond);

void dgemm_square(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<double> a(static_cast<size_t>(n * n), 1.0);
  std::vector<double> c(a.size());
  for (auto _ : state) dgemm_tile(false, true, n, n, n, 1.0, a.data(), n, a.data(), n, 0.0, c.data(), n);
  report(state, static_cast<double>(n) * static_cast<double>(n * n));
}
BENCHMARK(dgemm_square)->Arg(1024)->Unit(benchmark::kMillisecond);

// 4096 tokens.
void gram(benchmark::State& state) {
  const int64_t k = state.range(0);
  const Matrix& x = input(k).inputs;
  Matrix sum(k, k);
  for (auto _ : state) gram_accumulate(x.data(), kBatch, k, sum);
  report(state, static_cast<double>(kBatch) * static_cast<double>(k) * static_cast<double>(k + 1) / 2);
}
BENCHMARK(gram)->Arg(576)->Arg(1536)->Arg(4096)->Unit(benchmark::kMillisecond);

void scale_search(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Matrix* const stack[] = {&weight};
  const ActivationStats& stats = input(k).stats;
  ScaleSearchOptions options;
  options.grid.group_size = 64;
  for (auto _ : state) benchmark::DoNotOptimize(search_scale(LinearInput::kQkv, stack, stats, options));
  report(state, 20.0 * 256 * static_cast<double>(k) * static_cast<double>(k) / 2);
}
#define LAYER_TAPS \
  ->Args({960, 576})->Args({576, 576})->Args({3072, 576})->Args({576, 1536})->Unit(benchmark::kMillisecond)
BENCHMARK(scale_search) LAYER_TAPS;

void ranges(benchmark::State& state, bool symmetric) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Grid grid{4, symmetric, 64};
  const Matrix& gram = input(k).stats.gram;
  for (auto _ : state) benchmark::DoNotOptimize(group_ranges(weight, grid, {RangeMethod::kGram}, &gram));
  report(state, (symmetric ? 25.0 : 54.0) * 32 * static_cast<double>(n) * static_cast<double>(k));
}
BENCHMARK_CAPTURE(ranges, gram_symmetric, true) LAYER_TAPS;
BENCHMARK_CAPTURE(ranges, gram_asymmetric, false) LAYER_TAPS;

void clip(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Matrix& gram = input(k).stats.gram;
  for (auto _ : state) benchmark::DoNotOptimize(search_clip(weight, gram, Grid{4, true, 64}));
}
BENCHMARK(clip) LAYER_TAPS;

void factor(benchmark::State& state) {
  const int64_t k = state.range(0);
  const Matrix& gram = input(k).stats.gram;
  for (auto _ : state) benchmark::DoNotOptimize(make_gptq_factor(gram));
  report(state, std::pow(static_cast<double>(k), 3) / 3);
}
BENCHMARK(factor)->Arg(576)->Arg(1536)->Unit(benchmark::kMillisecond);

void gptq(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Grid grid{4, true, 64};
  const GroupRanges found = group_ranges(weight, grid);
  const GptqFactor& shared = *input(k).factor;
  for (auto _ : state) benchmark::DoNotOptimize(quantize_gptq(weight, shared, found, grid));
  report(state, static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(k) / 2);
}
BENCHMARK(gptq) LAYER_TAPS;

void rtn(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Grid grid{4, true, 64};
  for (auto _ : state) benchmark::DoNotOptimize(quantize_rtn(weight, group_ranges(weight, grid), grid));
}
BENCHMARK(rtn) LAYER_TAPS;

void errors(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix weight = random_matrix(n, k, 2);
  const Grid grid{4, true, 64};
  const QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  const Matrix& gram = input(k).stats.gram;
  for (auto _ : state) benchmark::DoNotOptimize(linear_errors(weight, q, &gram));
  report(state, static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(k));
}
BENCHMARK(errors) LAYER_TAPS;

}  // namespace
}  // namespace metal_marlin
