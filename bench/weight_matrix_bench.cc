// Products with weights of codes, on each instruction set: few rows, with the weights from memory (more than 100 MB are
// cycled through), and many rows. Counters: GB/s of codes and scales, GFLOP/s; `read/STREAMS/THREADS` is the plain
// reading of the same bytes, the bound of few rows: the best of them. One thread, but for `library/GROUP/ROWS/THREADS`
// and `read`: multiply() as the forward pass calls it, rounding of the activations included, on the instruction set
// that METAL_MARLIN_ISA or the machine chooses; wall time.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/codes/kernels.h"
#include "kernels/weight_matrix.h"

namespace {

using namespace metal_marlin;  // NOLINT

constexpr int64_t kOut = 4096;
constexpr int64_t kIn = 4096;

const std::vector<WeightMatrix>& weights(int64_t group, bool symmetric) {
  static std::vector<WeightMatrix> kept;
  static std::pair<int64_t, bool> of{0, false};
  if (of == std::pair{group, symmetric}) return kept;
  kept.clear();
  QuantizedTensor q;
  q.out_features = kOut;
  q.in_features = kIn;
  q.group_size = group;
  q.symmetric = symmetric;
  Random random(1);
  q.codes.resize(static_cast<size_t>(kOut * kIn));
  for (auto& c : q.codes) c = static_cast<uint8_t>(random.below(16));
  q.scales.assign(static_cast<size_t>(kOut * q.groups()), f32_to_f16(0.01f));
  for (int64_t i = 0; i < kOut * q.groups(); ++i)
    q.zeros.push_back(symmetric ? 8 : static_cast<uint8_t>(random.below(16)));
  for (int i = 0; i < 14; ++i) kept.push_back(WeightMatrix::of_codes(q));
  of = {group, symmetric};
  return kept;
}

void count(benchmark::State& state, const WeightMatrix& weight, int64_t rows) {
  const auto rate = [](double per_product) {
    return benchmark::Counter(per_product * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GB/s"] = rate(static_cast<double>(weight.bytes()));
  state.counters["GFLOP/s"] = rate(2.0 * static_cast<double>(rows * kOut * kIn));
}

void product(benchmark::State& state, const CodeKernels& kernels, int64_t group, bool symmetric) {
  const int64_t rows = state.range(0);
  const auto& all = weights(group, symmetric);
  std::vector<float> x(static_cast<size_t>(rows * kIn));
  Random random(2);
  for (float& v : x) v = static_cast<float>(random.normal());
  std::vector<float> y(static_cast<size_t>(rows * kOut));
  WeightInput input;
  size_t next = 0;
  for (auto _ : state) {
    const WeightMatrix& w = all[next++ % all.size()];
    input.forget();
    input.assign(w, x.data(), rows, false);
    for (int64_t p = 0; p < w.panels(); ++p) {  // as the library does
      kernels.multiply_codes(w.tiles(), w.panel_begin(p) / kTileOutputs, w.panel_width(p) / kTileOutputs,
                             input.rounded(), rows, y.data() + w.panel_begin(p), kOut);
    }
    benchmark::ClobberMemory();
  }
  count(state, all.front(), rows);
}

using Word = uint64_t __attribute__((vector_size(16)));
constexpr int64_t kBytes = kOut * kIn / 2;  // of the codes

// Reads `bytes` from `begin` in `streams` places at once, as far ahead as memory needs. What reads the most of these is
// the machine's bandwidth: one stream alone is bound by the hardware's prefetcher.
template <int kStreams>
void read_bytes(const std::byte* begin, int64_t bytes) {
  const int64_t part = bytes / kStreams;
  Word sums[kStreams] = {};
  for (int64_t i = 0; i < part; i += 64) {
    for (int s = 0; s < kStreams; ++s) {
      const std::byte* line = begin + s * part + i;
      __builtin_prefetch(line + 4096);
      for (int w = 0; w < 4; ++w) sums[s] |= reinterpret_cast<const Word*>(line)[w];
    }
  }
  benchmark::DoNotOptimize(sums);
}

// The tiles of a weight are read by all threads, as panels are.
template <int kStreams>
void read(benchmark::State& state) {
  const ThreadCount threads(static_cast<int>(state.range(0)));
  const auto& all = weights(128, true);
  constexpr int64_t kParts = 32;
  size_t next = 0;
  for (auto _ : state) {
    const auto* codes = reinterpret_cast<const std::byte*>(all[next++ % all.size()].tiles().codes);
    parallel_for(kParts,
                 [&](int64_t part) { read_bytes<kStreams>(codes + part * (kBytes / kParts), kBytes / kParts); });
  }
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(kBytes) * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void round_rows(benchmark::State& state, const CodeKernels& kernels) {
  std::vector<float> x(4096);
  Random random(3);
  for (float& v : x) v = static_cast<float>(random.normal());
  std::vector<int8_t> codes(4096);
  std::vector<float> scales(64);
  std::vector<int32_t> sums(64);
  for (auto _ : state) {
    kernels.round_segments(x.data(), 64, 64, codes.data(), scales.data(), sums.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * 4096);
}

void library(benchmark::State& state, int64_t group) {
  const int64_t rows = state.range(0);
  const ThreadCount threads(static_cast<int>(state.range(1)));
  const auto& all = weights(group, true);
  std::vector<float> x(static_cast<size_t>(rows * kIn));
  Random random(2);
  for (float& v : x) v = static_cast<float>(random.normal());
  std::vector<float> y(static_cast<size_t>(rows * kOut));
  size_t next = 0;
  for (auto _ : state) {
    const LinearTask task{&all[next++ % all.size()], nullptr, y.data(), kOut};
    multiply(std::span(&task, 1), x.data(), rows, true);
    benchmark::ClobberMemory();
  }
  count(state, all.front(), rows);
}

const int registered = [] {
  benchmark::RegisterBenchmark("read/1", read<1>)->Arg(1)->Arg(2)->UseRealTime();
  benchmark::RegisterBenchmark("read/4", read<4>)->Arg(1)->Arg(2)->UseRealTime();
  benchmark::RegisterBenchmark("read/8", read<8>)->Arg(1)->Arg(2)->UseRealTime();
  for (const int64_t group : {128, 32}) {
    benchmark::RegisterBenchmark(("library/" + std::to_string(group)).c_str(),
                                 [group](benchmark::State& s) { library(s, group); })
        ->ArgsProduct({{1, 8, 512}, {1, 2}})
        ->UseRealTime();
  }
  for (const auto& [group, symmetric] : {std::pair<int64_t, bool>{128, true}, {64, true}, {32, true}, {64, false}}) {
    for (const CodeKernels& row : supported_code_kernels()) {
      const std::string name = "product/" + std::to_string(group) + (symmetric ? "/sym/" : "/asym/") + row.name;
      auto* b = benchmark::RegisterBenchmark(
          name.c_str(),
          [&row, group = group, symmetric = symmetric](benchmark::State& s) { product(s, row, group, symmetric); });
      b->Arg(1);
      if (&row != &supported_code_kernels().front()) b->Arg(8)->Arg(64)->Arg(512);
    }
  }
  for (const CodeKernels& row : supported_code_kernels()) {
    benchmark::RegisterBenchmark((std::string("round/") + row.name).c_str(),
                                 [&row](benchmark::State& s) { round_rows(s, row); });
  }
  return 0;
}();

}  // namespace
