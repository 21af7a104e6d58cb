// The float kernels on each instruction set, in the first cache, and attention over cached pages: few rows with the
// pages from memory, many with a page in the cache. Counters: GB/s of what is read and written, GFLOP/s, and `share` of
// the bound: for attention of few rows the plain reading of the same bytes, for sums of products the GEMM's rate in
// cache (gemm_rate), for the others a copy of as many bytes in the cache.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/tensor.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "kernels/kv_attention.h"
#include "platform/machine.h"

namespace {

using namespace metal_marlin;  // NOLINT

constexpr int64_t kValues = 2048;

std::vector<float> random_values(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

// Seconds of processor time of one call, the best of some runs: the machine may have other work.
double best_seconds(int calls, const std::function<void()>& f) {
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const double start = cpu_seconds();
    for (int j = 0; j < calls; ++j) f();
    best = std::min(best, (cpu_seconds() - start) / calls);
  }
  return best;
}

double copy_rate() {
  static const double rate = [] {
    const auto from = random_values(kValues, 1);
    std::vector<float> to(kValues);
    const double seconds = best_seconds(10'000, [&] {
      std::memcpy(to.data(), from.data(), kValues * sizeof(float));
      benchmark::ClobberMemory();
    });
    return 2 * kValues * sizeof(float) / seconds;
  }();
  return rate;
}

using Line = uint64_t __attribute__((vector_size(64)));

// Bytes per second of a plain loop over memory.
double read_rate(const Buffer& memory) {
  static double rate = 0;
  if (rate > 0) return rate;
  const auto* lines = reinterpret_cast<const Line*>(memory.data());
  const auto count = static_cast<int64_t>(memory.size() / sizeof(Line)) - 256;
  const double best = best_seconds(1, [&] {
    Line sums[4] = {};
    for (int64_t l = 0; l < count; l += 4) {
      for (int64_t j = 0; j < 4; ++j) {
        __builtin_prefetch(lines + l + j + 128);
        sums[j] |= lines[l + j];
      }
    }
    benchmark::DoNotOptimize(sums);
  });
  rate = static_cast<double>(count) * sizeof(Line) / best;
  return rate;
}

void count(benchmark::State& state, const char* unit, double per_call, double bound) {
  using benchmark::Counter;
  state.counters[unit] = Counter(per_call * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["share"] = Counter(per_call / bound, Counter::kIsIterationInvariantRate);
}

// `bytes`: read and written by a call.
void add(const std::string& name, double bytes, std::function<void()> f) {
  benchmark::RegisterBenchmark(name.c_str(), [bytes, f = std::move(f)](benchmark::State& state) {
    for (auto _ : state) {
      f();
      benchmark::ClobberMemory();
    }
    count(state, "GB/s", bytes, copy_rate());
  });
}

struct Attention {
  static constexpr int64_t kHeadDim = 64;
  KvType type = KvType::kF16;
  int64_t rows = 0;
  Buffer pages;
  int64_t count = 0;
  Buffer scratch{static_cast<size_t>(attend_scratch(kHeadDim)) * sizeof(float)};
  std::vector<float> q, max, sum, out;
  std::vector<int32_t> begin, end;

  Attention(KvType t, int64_t r, int64_t bytes)
      : type(t),
        rows(r),
        count(std::max<int64_t>(1, bytes / kv_page_bytes(t, kHeadDim))),
        q(random_values(r * kHeadDim, 2)),
        max(static_cast<size_t>(r)),
        sum(static_cast<size_t>(r)),
        out(static_cast<size_t>(r * kHeadDim)),
        begin(static_cast<size_t>(r), 0),
        end(static_cast<size_t>(r), kKvPage) {
    pages = Buffer(static_cast<size_t>(count * kv_page_bytes(t, kHeadDim)));
    // Bytes that are small numbers in each type.
    for (size_t i = 0; i < pages.size(); ++i) pages.data()[i] = static_cast<std::byte>(i * 2654435761u >> 27);
  }

  void attend(const KernelTable& kernels, int64_t page) {
    AttendPage task;
    task.q = q.data();
    task.rows = rows;
    task.head_dim = kHeadDim;
    task.page = pages.data() + page * kv_page_bytes(type, kHeadDim);
    task.type = type;
    task.begin = begin.data();
    task.end = end.data();
    task.scale = 0.125f;
    task.max = max.data();
    task.sum = sum.data();
    task.out = out.data();
    task.scratch = reinterpret_cast<float*>(scratch.data());
    kernels.attend_page(task);
  }
};

void attend(benchmark::State& state, const KernelTable& kernels, KvType type, int64_t rows) {
  const bool few = rows <= 8;
  Attention a(type, rows, few ? 128 << 20 : 0);
  int64_t page = 0;
  std::fill(a.max.begin(), a.max.end(), -1e30f);
  for (auto _ : state) {
    a.attend(kernels, page);
    page = (page + 1) % a.count;
    benchmark::ClobberMemory();
  }
  if (few) {
    count(state, "GB/s", static_cast<double>(kv_page_bytes(type, Attention::kHeadDim)), read_rate(a.pages));
  } else {
    count(state, "GFLOP/s", 4.0 * static_cast<double>(rows * kKvPage * Attention::kHeadDim),
          gemm_rate(MatmulPrecision::kF32) * 1e9);
  }
}

void small_gemm(benchmark::State& state, const KernelTable& kernels) {
  constexpr int64_t kM = 48, kN = 64, kK = 64;
  const auto a = random_values(kM * kK, 3);
  const auto b = random_values(kK * kN, 4);
  std::vector<float> c(kM * kN);
  for (auto _ : state) {
    kernels.small_gemm(a.data(), kK, b.data(), kN, c.data(), kN, kM, kN, kK);
    benchmark::ClobberMemory();
  }
  count(state, "GFLOP/s", 2.0 * kM * kN * kK, gemm_rate(MatmulPrecision::kF32) * 1e9);
}

const int registered = [] {
  static std::vector<float> x = random_values(kValues, 5), y = random_values(kValues, 6), z(kValues);
  static std::vector<uint16_t> halves(kValues);
  static std::vector<float> cosines(kValues / 2), sines(kValues / 2);
  for (size_t i = 0; i < cosines.size(); ++i) {
    cosines[i] = std::cos(static_cast<float>(i));
    sines[i] = std::sin(static_cast<float>(i));
  }
  constexpr double kFloats = kValues * 4;
  for (const Isa isa : supported_isas()) {
    const KernelTable& k = *kernels(isa);
    const std::string row = std::string("/") + isa_name(isa);
    add("rms_norm" + row, 3 * kFloats, [&k] { k.rms_norm(x.data(), y.data(), 0, 1e-6f, kValues, z.data()); });
    add("rope" + row, 3 * kFloats, [&k] { k.rope(z.data(), cosines.data(), sines.data(), kValues / 2); });
    add("softmax" + row, 2 * kFloats, [&k] {
      std::memcpy(z.data(), x.data(), sizeof(float) * kValues);
      k.softmax(z.data(), 0, kValues, kValues, 1, 0);
    });
    add("silu_mul" + row, 3 * kFloats, [&k] { k.silu_mul(x.data(), y.data(), kValues, z.data()); });
    add("gelu_tanh_mul" + row, 3 * kFloats, [&k] { k.gelu_tanh_mul(x.data(), y.data(), kValues, z.data()); });
    add("add" + row, 3 * kFloats, [&k] { k.add(x.data(), kValues, z.data()); });
    add("f32_to_f16" + row, 1.5 * kFloats, [&k] { k.f32_to_f16(x.data(), kValues, halves.data()); });
    add("f16_to_f32" + row, 1.5 * kFloats, [&k] { k.f16_to_f32(halves.data(), kValues, z.data()); });
    add("f32_to_bf16" + row, 1.5 * kFloats, [&k] { k.f32_to_bf16(x.data(), kValues, halves.data()); });
    add("bf16_to_f32" + row, 1.5 * kFloats, [&k] { k.bf16_to_f32(halves.data(), kValues, z.data()); });
    add("log_sum_exp" + row, kFloats, [&k] {
      int64_t argmax = 0;
      benchmark::DoNotOptimize(k.log_sum_exp(x.data(), kValues, &argmax));
    });
    add("logit_row_stats" + row, 2 * kFloats,
        [&k] { benchmark::DoNotOptimize(k.logit_row_stats(x.data(), y.data(), kValues)); });
    benchmark::RegisterBenchmark(("small_gemm" + row).c_str(), [&k](benchmark::State& s) { small_gemm(s, k); });
    for (const auto& [type, name] : {std::pair{KvType::kF16, "f16"}, {KvType::kI8, "i8"}}) {
      for (const int64_t rows : {3, 48}) {
        benchmark::RegisterBenchmark(("attend_page/" + std::string(name) + "/" + std::to_string(rows) + row).c_str(),
                                     [&k, type = type, rows](benchmark::State& s) { attend(s, k, type, rows); });
      }
    }
  }
  return 0;
}();

}  // namespace
