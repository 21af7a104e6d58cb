// What a run would do and take: the records of --dry-run --json.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/record.h>
#include <metal_marlin/report_records.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// Bytes of memory and disk that a run takes, by what takes them; not all parts are held at once.
struct MemoryRecord {
  uint64_t base = 0;
  uint64_t states = 0;
  uint64_t spilled = 0;
  uint64_t block = 0;
  uint64_t statistics = 0;
  uint64_t forward_scratch = 0;
  uint64_t quantize_scratch = 0;
  uint64_t head = 0;
  uint64_t self_text = 0;
  uint64_t selection = 0;
  uint64_t sensitivity = 0;
  uint64_t disk = 0;
  uint64_t peak_bytes = 0;

  static void describe(auto& field, auto& self) {
    field("base", self.base, "program, libraries, tokenizer");
    field("states", self.states, "hidden states, in memory");
    field("spilled", self.spilled, "hidden states, in scratch files");
    field("block", self.block, "f32 weights of one block, and its codes");
    field("statistics", self.statistics, "Gram matrices");
    field("forward_scratch", self.forward_scratch);
    field("quantize_scratch", self.quantize_scratch);
    field("head", self.head, "head and rows of logits");
    field("self_text", self.self_text, "making the text: weights and caches");
    field("selection", self.selection, "choosing sequences from a pool: its states, a block, the profiles");
    field("sensitivity", self.sensitivity,
          "measuring what each linear's quantization costs: streams of states, two blocks");
    field("disk", self.disk, "journal and output, at the peak");
    field("peak_bytes", self.peak_bytes, "the most memory that is held at once");
  }
};

struct PlannedLinear {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  int64_t bits = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "of the weight");
    field("shape", self.shape, "[out_features, in_features]");
    field("bits", self.bits, "of a code; where the run chooses the bits, the number that it starts from");
  }
};

struct PlannedSize {
  std::string format;
  uint64_t bytes = 0;
  std::vector<PartRecord> parts;

  static void describe(auto& field, auto& self) {
    field("format", self.format);
    field("bytes", self.bytes,
          "of all tensors; an upper bound where options.mixed_bits is true, as are those of the parts");
    field("parts", self.parts, "as model.parts of report.json; linears whose bits the run chooses are all in linears");
  }
};

struct PlannedMachine {
  std::string cpu;
  int64_t threads = 0;
  double gemm_gflops_per_core = 0;

  static void describe(auto& field, auto& self) {
    field("cpu", self.cpu, "name of the processor");
    field("threads", self.threads, "that the run would use");
    field("gemm_gflops_per_core", self.gemm_gflops_per_core, "of matrix products in f32, measured");
  }
};

// What a run would do.
struct Plan {
  std::string model;
  std::string output;
  OptionValues options;
  std::optional<std::string> start;
  int64_t finished_blocks = 0;
  std::string stops;
  int64_t exit_code = 0;
  uint64_t calibration_tokens = 0;
  int64_t builtin_tokens = 0;
  int64_t held_back_tokens = 0;
  std::optional<std::string> evaluation_text;
  std::vector<PlannedLinear> quantized;
  uint64_t quantized_weights = 0;
  uint64_t quantized_bytes = 0;
  std::vector<SkippedRecord> skipped;
  std::vector<PlannedSize> sizes;
  uint64_t source_bytes = 0;
  MemoryRecord memory;
  uint64_t memory_budget = 0;
  uint64_t disk_free_bytes = 0;
  std::map<std::string, double> seconds;
  PlannedMachine machine;
  std::vector<std::string> warnings;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("model", self.model);
    field("output", self.output);
    field("options", self.options, "as in report.json");
    field("start", self.start, "fresh, resume, redo or complete; null where OUT stops the run");
    field("finished_blocks", self.finished_blocks, "of the run that would be resumed");
    field("stops", self.stops, "why the run would stop; empty: it would not");
    field("exit_code", self.exit_code, "of the command, as far as it can be known before");
    field("calibration_tokens", self.calibration_tokens);
    field("builtin_tokens", self.builtin_tokens, "those of them that are of the program's own text");
    field("held_back_tokens", self.held_back_tokens);
    field("evaluation_text", self.evaluation_text, "the file that --evaluate names");
    field("quantized", self.quantized);
    field("quantized_weights", self.quantized_weights);
    field("quantized_bytes", self.quantized_bytes,
          "of codes, scales and zeros; at most so many where the run chooses the bits");
    field("skipped", self.skipped);
    field("sizes", self.sizes, "of each format");
    field("source_bytes", self.source_bytes);
    field("memory", self.memory, "bytes");
    field("memory_budget", self.memory_budget, "bytes");
    field("disk_free_bytes", self.disk_free_bytes);
    field("seconds", self.seconds, "by stage and in total, estimated");
    field("machine", self.machine);
    field("warnings", self.warnings);
  }
};

}  // namespace metal_marlin
