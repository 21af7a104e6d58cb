// Packing alone, one core: bytes of output per second for each layout, into buffers that are used again and into fresh
// ones, beside memcpy of as many bytes into the same kind of memory.
#include <benchmark/benchmark.h>

#include <cstring>
#include <functional>
#include <map>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "pack/awq_gemm.h"
#include "pack/gptq.h"
#include "pack/marlin.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

using Pack = std::function<void(const QuantizedTensor&, PackedTensor&)>;

// Symmetric, groups of 128: what every layout holds.
const QuantizedTensor& tensor(int64_t n, int64_t k) {
  static std::map<std::pair<int64_t, int64_t>, QuantizedTensor> all;
  QuantizedTensor& t = all[{n, k}];
  if (!t.codes.empty()) return t;
  Random random(1);
  t = {.out_features = n, .in_features = k, .group_size = 128, .bits = 4, .symmetric = true};
  t.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random.below(16));
  t.scales.assign(static_cast<size_t>(n * t.groups()), f32_to_f16(0.01F));
  t.zeros.assign(t.scales.size(), 8);
  return t;
}

uint64_t bytes_of(const PackedTensor& packed) {
  uint64_t bytes = 0;
  for (const OwnedTensor& part : packed.parts) bytes += part.bytes.size();
  return bytes;
}

void layout(benchmark::State& state, const Pack& pack, bool fresh) {
  const ThreadCount thread_count(1);
  const QuantizedTensor& t = tensor(state.range(0), state.range(1));
  PackedTensor packed;
  pack(t, packed);
  const uint64_t bytes = bytes_of(packed);
  for (auto _ : state) {
    if (fresh) packed = {};
    pack(t, packed);
    benchmark::DoNotOptimize(packed.parts[0].bytes.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

void copy(benchmark::State& state, bool fresh) {
  const size_t bytes = static_cast<size_t>(state.range(0) * state.range(1)) / 2;
  const Buffer from(bytes);
  std::memset(const_cast<std::byte*>(from.data()), 1, bytes);
  Buffer to(bytes);
  for (auto _ : state) {
    if (fresh) {
      to = Buffer();
      to = Buffer(bytes);
    }
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

const std::vector<std::pair<const char*, Pack>> kLayouts = {
    {"native", [](const QuantizedTensor& t, PackedTensor& out) { pack_native(t, "p", {}, out); }},
    {"awq", [](const QuantizedTensor& t, PackedTensor& out) { pack_awq_gemm(t, "p", out); }},
    {"gptq", [](const QuantizedTensor& t, PackedTensor& out) { pack_gptq(t, "p", GptqVersion::kV1, out); }},
    {"gptq_v2", [](const QuantizedTensor& t, PackedTensor& out) { pack_gptq(t, "p", GptqVersion::kV2, out); }},
    {"marlin", [](const QuantizedTensor& t, PackedTensor& out) { pack_marlin(t, "p", out); }},
};

const bool kRegistered = [] {
  for (const bool fresh : {false, true}) {
    const std::string memory = fresh ? "/fresh" : "/reused";
    std::vector<benchmark::internal::Benchmark*> all;
    all.push_back(
        benchmark::RegisterBenchmark(("memcpy" + memory).c_str(), [=](benchmark::State& s) { copy(s, fresh); }));
    for (const auto& [name, pack] : kLayouts) {
      all.push_back(benchmark::RegisterBenchmark((name + memory).c_str(),
                                                 [=, &pack = pack](benchmark::State& s) { layout(s, pack, fresh); }));
    }
    for (auto* benchmark : all) {
      benchmark->Args({1024, 1024})
          ->Args({4096, 4096})
          ->Args({11008, 4096})
          ->Args({4096, 14336})
          ->Unit(benchmark::kMillisecond);
    }
  }
  return true;
}();

}  // namespace
}  // namespace metal_marlin
