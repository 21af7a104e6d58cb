// The forward pass of a block of SmolLM2-135M's shape: operations per second of processor time ("flops": linears and
// the visible part of attention, per core) and their share of gemm_rate(). Arguments: sequences, tokens each.
#include <benchmark/benchmark.h>

#include "core/machine.h"
#include "core/random.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "model/block.h"
#include "model/kv_cache.h"

namespace metal_marlin {
namespace {

struct Shape {
  int64_t hidden, ffn, heads, kv_heads, head_dim;
};
constexpr Shape kSmolLM2 = {576, 1536, 9, 3, 64};
constexpr Shape kLlama1B = {2048, 8192, 32, 8, 64};

struct Model {
  Family family;
  ModelConfig config;
  Block block;

  explicit Model(const Shape& s) {
    config.hidden_size = s.hidden;
    config.intermediate_size = s.ffn;
    config.num_hidden_layers = 1;
    config.num_attention_heads = s.heads;
    config.num_key_value_heads = s.kv_heads;
    config.head_dim = s.head_dim;
    config.max_position_embeddings = 8192;
    config.query_scale = 0.125;
    config.sliding_window = {0};
    config.layer_uses_local_rope = {false};
    const int64_t q = s.heads * s.head_dim;
    const int64_t kv = s.kv_heads * s.head_dim;
    const int64_t shapes[kLinears][2] = {{q, s.hidden},     {kv, s.hidden},    {kv, s.hidden},   {s.hidden, q},
                                         {s.ffn, s.hidden}, {s.ffn, s.hidden}, {s.hidden, s.ffn}};
    Random random(1);
    for (int i = 0; i < kLinears; ++i) {
      auto& w = block.linear(static_cast<LinearKind>(i)).weight;
      w = Matrix(shapes[i][0], shapes[i][1]);
      for (auto& v : w.values()) v = static_cast<float>(random.uniform() * 0.1 - 0.05);
    }
    for (const auto kind : {NormKind::kInput, NormKind::kPreFeedForward}) {
      block.norm(kind).assign(static_cast<size_t>(s.hidden), 1.0f);
    }
  }
};

Matrix random_states(int64_t rows, int64_t cols) {
  Random random(2);
  Matrix m(rows, cols);
  for (auto& v : m.values()) v = static_cast<float>(random.uniform() - 0.5);
  return m;
}

void report(benchmark::State& state, double operations, MatmulPrecision precision, double cpu) {
  static const double f32 = gemm_rate(MatmulPrecision::kF32);
  static const double bf16 = gemm_rate(MatmulPrecision::kBF16);
  const double total = operations * static_cast<double>(state.iterations());
  const double roof = (precision == MatmulPrecision::kBF16 ? bf16 : f32) * 1e9;
  state.counters["flops"] = total / cpu;
  state.counters["share"] = total / cpu / roof;
  state.SetLabel(gemm_isa_name() + ", " + isa_name());
}

void forward(benchmark::State& state, const Shape& shape, MatmulPrecision precision, bool with_hook) {
  const Model m(shape);
  const std::vector<int64_t> lengths(static_cast<size_t>(state.range(0)), state.range(1));
  Matrix states = random_states(state.range(0) * state.range(1), shape.hidden);
  BlockForward f(m.family, m.config, precision);
  double seen = 0;
  const InputHook hook = [&](LinearInput, const float* x, int64_t, int64_t) { seen += x[0]; };
  const double start = cpu_seconds();
  for (auto _ : state) f.run(0, m.block, states, lengths, with_hook ? hook : InputHook());
  const double cpu = cpu_seconds() - start;
  benchmark::DoNotOptimize(seen);
  report(state, f.operations(0, lengths), f.precision(), cpu);
}
void smollm2_f32(benchmark::State& state) {
  forward(state, kSmolLM2, MatmulPrecision::kF32, false);
}
void smollm2_f32_hooks(benchmark::State& state) {
  forward(state, kSmolLM2, MatmulPrecision::kF32, true);
}
void smollm2_bf16(benchmark::State& state) {
  forward(state, kSmolLM2, MatmulPrecision::kBF16, false);
}
void llama_1b_f32(benchmark::State& state) {
  forward(state, kLlama1B, MatmulPrecision::kF32, false);
}

// One token of each sequence after `range(1)` earlier ones, with the block prepared once.
void smollm2_decode(benchmark::State& state) {
  const Model m(kSmolLM2);
  const std::vector<int64_t> ones(static_cast<size_t>(state.range(0)), 1);
  BlockForward f(m.family, m.config);
  const auto block = f.prepare(m.block);
  KvCache cache(m.config, state.range(0), state.range(1) + 1);
  Matrix prompt = random_states(state.range(0) * state.range(1), 576);
  f.run(0, *block, prompt, std::vector<int64_t>(ones.size(), state.range(1)), {}, &cache);
  Matrix states = random_states(state.range(0), 576);
  const double start = cpu_seconds();
  for (auto _ : state) {
    for (size_t s = 0; s < ones.size(); ++s) cache.truncate(static_cast<int64_t>(s), state.range(1));
    f.run(0, *block, states, ones, {}, &cache);
  }
  report(state, f.operations(0, ones), MatmulPrecision::kF32, cpu_seconds() - start);
}

BENCHMARK(smollm2_f32)->Args({64, 512})->Args({8, 512})->Args({1, 4096})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(smollm2_f32_hooks)->Args({64, 512})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(smollm2_bf16)->Args({64, 512})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(llama_1b_f32)->Args({8, 512})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(smollm2_decode)->Args({1, 256})->Args({64, 256})->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace metal_marlin
