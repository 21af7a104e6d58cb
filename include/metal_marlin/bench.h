// How fast a model runs on this machine.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/record.h>

#include <cstdint>
#include <optional>
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

struct BenchSpeed {
  double median = 0;
  double lowest = 0;
  double highest = 0;

  static void describe(auto& field, auto& self) {
    field("median", self.median, "of the measurements");
    field("lowest", self.lowest);
    field("highest", self.highest);
  }
};

struct BenchRate {
  int64_t tokens = 0;
  BenchSpeed tokens_per_second;

  static void describe(auto& field, auto& self) {
    field("tokens", self.tokens, "of each sequence");
    field("tokens_per_second", self.tokens_per_second, "of all sequences together");
  }
};

struct BenchBatch : BenchRate {
  int64_t sequences = 0;

  static void describe(auto& field, auto& self) {
    field("sequences", self.sequences, "that were generated beside each other");
    BenchRate::describe(field, self);
  }
};

struct BenchResult {
  std::string cpu;
  std::string isa;
  std::string compute;
  std::string head;
  std::string kv;
  int64_t depth = 0;
  int threads = 0;
  double load_seconds = 0;
  uint64_t resident_bytes = 0;
  std::optional<BenchRate> prompt;
  std::optional<BenchRate> generate;
  std::vector<BenchBatch> batches;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("cpu", self.cpu, "name of the processor");
    field("isa", self.isa, "the instruction set of the kernels");
    field("compute", self.compute, "int8, bf16 or f32: arithmetic of the linears");
    field("head", self.head, "8 or 16: bits of the head");
    field("kv", self.kv, "32, 16 or 8: bits of keys and values");
    field("depth", self.depth, "tokens in the cache before each measurement");
    field("threads", self.threads);
    field("load_seconds", self.load_seconds);
    field("resident_bytes", self.resident_bytes, "memory of the process at the end");
    field("prompt", self.prompt, "null: not measured");
    field("generate", self.generate,
          "with the head's logits, without the choice of a token; of the first number of --batch; null: not measured");
    field("batches", self.batches, "of all numbers of --batch");
  }
};

// Measures with tokens drawn at random. `compute` as for TextGenerator. ArgumentError for numbers < 0, a batch without
// a sequence, or when nothing is to be measured.
METAL_MARLIN_API BenchResult bench_model(const std::string& model, const BenchOptions& options,
                                         const MachineOptions& machine = {}, const Observer& observer = {},
                                         const ComputeOptions& compute = {});

}  // namespace metal_marlin
