// The GEMM provider by shape on one core: GFLOP/s ("flops") and the share of gemm_rate(), the rate in cache.
#include <benchmark/benchmark.h>

#include "kernels/dispatch.h"
#include "kernels/gemm.h"

namespace metal_marlin {
namespace {

double rate(MatmulPrecision type) {
  static const double f32 = gemm_rate(MatmulPrecision::kF32);
  static const double bf16 = gemm_rate(MatmulPrecision::kBF16);
  return type == MatmulPrecision::kBF16 ? bf16 : f32;
}

Matrix filled(int64_t rows, int64_t cols) {
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
  return m;
}

void report(benchmark::State& state, double operations, MatmulPrecision type) {
  const double total = operations * static_cast<double>(state.iterations());
  state.counters["flops"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
  state.counters["share"] = benchmark::Counter(total / (rate(type) * 1e9), benchmark::Counter::kIsRate);
}

void packed(benchmark::State& state, MatmulPrecision type) {
  const int64_t m = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  const Matrix x = filled(m, k);
  const Matrix w = filled(n, k);
  Matrix y(m, n);
  const PackedWeight weight(w.data(), n, k, type);
  for (auto _ : state) linear_rows(weight, x.data(), m, nullptr, y.data(), n);
  report(state, 2.0 * static_cast<double>(m * n * k), weight.type());
}
void packed_f32(benchmark::State& state) {
  packed(state, MatmulPrecision::kF32);
}
void packed_bf16(benchmark::State& state) {
  packed(state, MatmulPrecision::kBF16);
}

void stored_f32(benchmark::State& state) {
  const Matrix x = filled(state.range(0), state.range(2));
  const Matrix w = filled(state.range(1), state.range(2));
  const auto view = PackedWeight::view(w.data(), w.rows(), w.cols());
  Matrix y(x.rows(), w.rows());
  for (auto _ : state) linear_rows(view, x.data(), x.rows(), nullptr, y.data(), w.rows());
  report(state, 2.0 * static_cast<double>(x.rows() * w.rows() * w.cols()), MatmulPrecision::kF32);
}

void pack(benchmark::State& state) {
  const Matrix w = filled(state.range(0), state.range(1));
  for (auto _ : state) benchmark::DoNotOptimize(PackedWeight(w.data(), w.rows(), w.cols(), MatmulPrecision::kF32));
  state.SetBytesProcessed(state.iterations() * w.size() * 4);
}

// Scores of a block of queries against keys, and their product with the values.
void small(benchmark::State& state) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const Matrix a = filled(96, k);
  const Matrix b = filled(k, n);
  Matrix c(96, n);
  for (auto _ : state) kernels().small_gemm(a.data(), k, b.data(), n, c.data(), n, 96, n, k);
  report(state, 2.0 * 96 * static_cast<double>(n * k), MatmulPrecision::kF32);
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const int64_t m : {1, 64, 128}) {
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {4096, 4096}}) {
      b->Args({m, n, k});
    }
  }
}
BENCHMARK(packed_f32)->Apply(shapes);
BENCHMARK(packed_bf16)->Apply(shapes);
BENCHMARK(stored_f32)->Args({128, 576, 576})->Args({128, 4096, 4096})->Args({512, 512, 576});
BENCHMARK(pack)->Args({576, 576})->Args({4096, 4096})->UseRealTime();
BENCHMARK(small)->Args({32, 64})->Args({64, 512})->Args({32, 128})->Args({128, 512});

}  // namespace
}  // namespace metal_marlin
