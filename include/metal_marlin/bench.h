// How fast a model runs on this machine.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

struct BenchOptions {
  int64_t prompt = 512;              // tokens read at once; 0: not measured
  int64_t generate = 128;            // tokens of each sequence, made one after the other; 0: not measured
  int64_t repeat = 5;                // measurements of each, after one that does not count
  int64_t depth = 0;                 // tokens in the cache before each measurement
  std::vector<int64_t> batch = {1};  // sequences that are generated beside each other; each number is measured
};

// Tokens per second of the measurements, of all sequences together.
struct BenchRate {
  int64_t tokens = 0;  // of each sequence
  double median = 0;
  double lowest = 0;
  double highest = 0;
};

struct BenchResult {
  std::string cpu;
  std::string isa;      // row of the kernels
  std::string compute;  // "int8", "bf16", "f32": arithmetic of the linears
  std::string head;     // "8", "16"
  int threads = 0;
  double load_seconds = 0;
  uint64_t resident_bytes = 0;  // at the end
  BenchRate prompt;
  BenchRate
      generate;    // includes the head's logits, not the choice of a token; of the first number of BenchOptions::batch
  std::string kv;  // "32", "16", "8": bits of keys and values
  int64_t depth = 0;
  struct Batch {
    int64_t sequences = 0;
    BenchRate rate;
  };
  std::vector<Batch> batches;  // of all numbers of BenchOptions::batch
};

// Measures with tokens drawn at random. `compute` as for TextGenerator. ArgumentError for numbers < 0, a batch without
// a sequence, or when nothing is to be measured.
METAL_MARLIN_API BenchResult bench_model(const std::string& model, const BenchOptions& options,
                                         const MachineOptions& machine = {}, const Observer& observer = {},
                                         const ComputeOptions& compute = {});

// {"cpu", "isa", "compute", "head", "kv", "threads", "load_seconds", "resident_bytes", "depth", "prompt": {"tokens",
// "tokens_per_second": {"median", "lowest", "highest"}}, "generate": {..}, "batches": [{"sequences", "tokens",
// "tokens_per_second"}]}; null for what was not measured.
METAL_MARLIN_API std::string to_json(const BenchResult& result);

}  // namespace metal_marlin
