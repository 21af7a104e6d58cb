// What a run says of itself: the records of report.json (schema 1). docs/report.md has the table of all fields.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/record.h>
#include <metal_marlin/sensitivity_records.h>
#include <metal_marlin/text_records.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// The model that was quantized.
struct InputRecord {
  std::string path;
  std::string format;
  std::string family;
  bool chat_template = false;
  std::string digest;  // 32 hexadecimal digits

  static void describe(auto& field, auto& self) {
    field("path", self.path, "the model as it was named, without the folders of this machine");
    field.since("format", self.format, "what it is stored as: safetensors, gguf, awq, gptq, ...");
    field.since("family", self.family, "such as llama");
    field.since("chat_template", self.chat_template, "whether it has one");
    field.since("digest", self.digest, "of the weights");
  }
};

// What a stage of the run took.
struct StageRecord {
  double seconds = 0;
  double cpu_seconds = 0;

  static void describe(auto& field, auto& self) {
    field("seconds", self.seconds);
    field("cpu_seconds", self.cpu_seconds, "of all threads");
  }
};

// How fast the forward pass over the calibration text was.
struct ForwardRecord {
  std::string precision;
  double operations = 0;
  double cpu_seconds = 0;
  double gflops_per_core = 0;
  double gemm_gflops_per_core = 0;
  double share_of_gemm = 0;

  static void describe(auto& field, auto& self) {
    field("precision", self.precision, "bf16 or f32");
    field("operations", self.operations,
          "additions and multiplications of linears and of the visible part of attention");
    field("cpu_seconds", self.cpu_seconds);
    field("gflops_per_core", self.gflops_per_core, "of that pass");
    field("gemm_gflops_per_core", self.gemm_gflops_per_core, "of plain matrix products, measured in the same run");
    field("share_of_gemm", self.share_of_gemm, "the one over the other");
  }
};

struct MachineRecord {
  std::string cpu;
  int64_t threads = 0;
  int64_t memory_bytes = 0;
  std::string blas_kernel;
  std::string gemm_isa;

  static void describe(auto& field, auto& self) {
    field("cpu", self.cpu, "name of the processor");
    field("threads", self.threads, "that the run used");
    field.since("memory_bytes", self.memory_bytes, "that the machine or the container has");
    field.since("blas_kernel", self.blas_kernel, "kernel of the BLAS library");
    field.since("gemm_isa", self.gemm_isa, "instruction set of the matrix products");
  }
};

struct IdentityModel {
  std::string path;
  std::string digest;

  static void describe(auto& field, auto& self) {
    field("path", self.path);
    field("digest", self.digest, "of the weights");
  }
};

// What makes a run the same as another.
struct IdentityRecord {
  std::string version;
  IdentityModel model;
  OptionValues options;
  std::vector<std::string> texts;
  std::vector<std::string> given;

  static void describe(auto& field, auto& self) {
    field.since("version", self.version, "of the program");
    field.since("model", self.model);
    field.since("options", self.options, "those that shape the result; a file stands by its kind");
    field.since("texts", self.texts, "digests of the texts");
    field.since("given", self.given, "the options that differ from their defaults; they do not count");
  }
};

struct RunRecord {
  std::string version;
  std::string finished;  // "2026-11-29T22:20:05Z"
  std::string command;
  std::string output;
  std::string fingerprint;
  std::optional<IdentityRecord> identity;
  double seconds = 0;
  double cpu_seconds = 0;
  int64_t peak_memory_bytes = 0;
  int64_t predicted_memory_bytes = 0;
  int64_t resumed_blocks = 0;
  std::map<std::string, StageRecord> stages;
  std::optional<ForwardRecord> forward;
  MachineRecord machine;

  static void describe(auto& field, auto& self) {
    field("version", self.version, "of the program");
    field.since("finished", self.finished, "when, in UTC");
    field.since("command", self.command,
                "the command line, without folders of absolute paths; empty: not from the command line");
    field.since("output", self.output, "the name of OUT");
    field.since("fingerprint", self.fingerprint, "of the identity, without the model's path");
    field.since("identity", self.identity, "what makes the run the same as another");
    field("seconds", self.seconds, "of the last run of the command");
    field("cpu_seconds", self.cpu_seconds, "likewise, of all threads");
    field("peak_memory_bytes", self.peak_memory_bytes, "measured");
    field.since("predicted_memory_bytes", self.predicted_memory_bytes, "planned");
    field.since("resumed_blocks", self.resumed_blocks, "how many blocks came from an interrupted run");
    field("stages", self.stages, "by name");
    field.since("forward", self.forward, "the forward pass over the calibration text; null without such a pass");
    field("machine", self.machine);
  }
};

struct PerplexityRecord {
  std::optional<double> reference;
  std::optional<double> quantized;

  static void describe(auto& field, auto& self) {
    field("reference", self.reference, "of the source; null without an evaluation, as are the next five");
    field("quantized", self.quantized, "of the result");
  }
};

struct DivergenceRecord {
  std::optional<double> mean;
  std::optional<double> standard_error;
  std::optional<double> p99;

  static void describe(auto& field, auto& self) {
    field("mean", self.mean, "KL(source, result), nats per position");
    field("standard_error", self.standard_error, "of the mean");
    field("p99", self.p99, "99 % of the positions are below");
  }
};

struct FormatRecord {
  std::string format;
  int64_t bytes = 0;
  double bits_per_weight = 0;

  static void describe(auto& field, auto& self) {
    field("format", self.format);
    field("bytes", self.bytes);
    field.since("bits_per_weight", self.bits_per_weight);
  }
};

// What the tensors of one kind take.
struct PartRecord {
  std::string name;
  int64_t weights = 0;
  int64_t bytes = 0;
  int64_t source_bytes = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "linears, embedding, head, linears in 16 bits, norms and biases");
    field("weights", self.weights, "how many");
    field("bytes", self.bytes, "in the result");
    field("source_bytes", self.source_bytes, "in the source");
  }
};

// What an evaluation has measured.
struct EvaluationRecord {
  PerplexityRecord perplexity;
  DivergenceRecord kl_divergence;
  std::optional<double> top1_agreement;
  int64_t positions = 0;
  double bits_per_weight = 0;
  int64_t bytes = 0;

  static void describe(auto& field, auto& self) {
    field("perplexity", self.perplexity);
    field("kl_divergence", self.kl_divergence);
    field("top1_agreement", self.top1_agreement, "share of positions with the same most likely token, 0 to 1");
    field("positions", self.positions, "how many were scored");
    field("bits_per_weight", self.bits_per_weight, "of the whole checkpoint, of the first format");
    field("bytes", self.bytes, "likewise");
  }
};

// The result beside its source.
struct ModelRecord : EvaluationRecord {
  double linears_bits_per_weight = 0;
  std::vector<FormatRecord> formats;
  std::vector<PartRecord> parts;
  int64_t parameters = 0;
  int64_t source_bytes = 0;
  double source_bits_per_weight = 0;

  static void describe(auto& field, auto& self) {
    EvaluationRecord::describe(field, self);
    field("linears_bits_per_weight", self.linears_bits_per_weight, "of the quantized linears alone");
    field.since("formats", self.formats, "each format that was written");
    field.since("parts", self.parts, "what the bytes of the first format are spent on");
    field.since("parameters", self.parameters, "of the source");
    field("source_bytes", self.source_bytes);
    field.since("source_bits_per_weight", self.source_bits_per_weight);
  }
};

// How a linear was rounded, where that was chosen on the validation split.
struct ChosenRecord {
  std::string rounding;
  double damping = 0;
  std::optional<double> nearest;
  std::optional<double> feedback;
  std::optional<double> refined;

  static void describe(auto& field, auto& self) {
    field("rounding", self.rounding, "nearest, feedback or refined");
    field("damping", self.damping);
    field.since("nearest", self.nearest, "relative output error on the validation split, for a sample of the rows");
    field.since("feedback", self.feedback, "likewise");
    field.since("refined", self.refined, "likewise");
  }
};

// A quantized linear.
struct LinearRecord {
  std::string name;
  std::vector<int64_t> shape;  // [out_features, in_features]
  std::string method;
  std::optional<int64_t> bits;
  std::optional<int64_t> group_size;
  std::optional<std::string> type;
  double weight_error = 0;
  std::optional<double> output_error;
  std::optional<double> held_back_output_error;
  std::vector<double> scale_range;
  std::optional<double> clipped_share;
  std::optional<double> saturated_share;
  int64_t zero_groups = 0;
  int64_t raised_scales = 0;
  int64_t clamped_scales = 0;
  std::optional<int64_t> clipped_groups;
  std::optional<int64_t> lifted_zeros;
  std::optional<double> damping;
  std::optional<int64_t> refined_codes;
  std::optional<int64_t> refined_scales;
  std::optional<ChosenRecord> chosen;
  double seconds = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "of the weight; a part of a fused one as NAME[q]");
    field("shape", self.shape, "[out_features, in_features]");
    field.since("method", self.method);
    field.since("bits", self.bits, "of a code");
    field.since("group_size", self.group_size);
    field.maybe("type", self.type, "the ggml type, where its blocks have another grid: Q4_K, IQ4_NL, ...");
    field("weight_error", self.weight_error, "see below");
    field("output_error", self.output_error, "see below; null where it was not measured");
    field("held_back_output_error", self.held_back_output_error, "likewise");
    field.since("scale_range", self.scale_range, "least and largest scale");
    field("clipped_share", self.clipped_share, "share of weights more than half a step outside their group's range");
    field("saturated_share", self.saturated_share, "share of codes at an end of the grid");
    field.since("zero_groups", self.zero_groups, "groups of zeros alone");
    field.since("raised_scales", self.raised_scales, "scales below the least normal float16, raised to it");
    field.since("clamped_scales", self.clamped_scales, "scales above the largest float16, clamped to it");
    field.maybe("clipped_groups", self.clipped_groups,
                "with AWQ's clip search: groups whose limit is below the largest weight");
    field.maybe("lifted_zeros", self.lifted_zeros, "zero points raised to the least that the format holds");
    field.maybe("damping", self.damping, "of the error feedback");
    field.maybe("refined_codes", self.refined_codes, "codes that refinement changed, once for each pass");
    field.maybe("refined_scales", self.refined_scales, "scales that refinement changed");
    field.maybe("chosen", self.chosen, "what the guard chose");
    field.since("seconds", self.seconds);
  }
};

// The scales of a linear input.
struct ScaleRecord {
  int64_t layer = 0;
  std::string tap;
  std::string fold;
  std::string producer;
  double ratio = 0;
  double loss = 0;
  double least = 0;
  double largest = 0;
  double seconds = 0;

  static void describe(auto& field, auto& self) {
    field("layer", self.layer);
    field("tap", self.tap, "the input: qkv, o, gate_up or down");
    field.since("fold", self.fold, "what took the scales, and from which linears");
    field.since("producer", self.producer, "the module whose output was divided by them");
    field.since("ratio", self.ratio, "the exponent");
    field.since("loss", self.loss, "over that without scales");
    field.since("least", self.least, "least scale");
    field.since("largest", self.largest, "largest scale");
    field.since("seconds", self.seconds);
  }
};

// The same over all linears.
struct RoundingRecord {
  int64_t sequences = 0;
  int64_t refined = 0;
  int64_t feedback = 0;
  int64_t nearest = 0;
  int64_t fallbacks = 0;
  std::map<std::string, int64_t> damping;

  static void describe(auto& field, auto& self) {
    field("sequences", self.sequences, "of the validation split, that it was judged on");
    field("refined", self.refined, "linears that were refined");
    field("feedback", self.feedback, "linears rounded with error feedback alone");
    field("nearest", self.nearest, "linears rounded to nearest");
    field("fallbacks", self.fallbacks, "linears with less than the recipe's steps");
    field.since("damping", self.damping, "which damping for how many");
  }
};

struct SkippedRecord {
  std::string name;
  std::string reason;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "a linear that is not quantized, or a tensor that is left out");
    field("reason", self.reason);
  }
};

// What float16 could not hold.
struct ClampedRecord {
  std::string name;
  std::optional<std::string> format;
  std::optional<int64_t> clamped;
  std::optional<int64_t> flushed;
  std::optional<double> largest;
  std::optional<int64_t> raised_scales;
  std::optional<int64_t> clamped_scales;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "a linear whose scales, or a tensor whose values float16 cannot hold");
    field.maybe("format", self.format, "of a tensor: of which format");
    field.maybe("clamped", self.clamped, "of a tensor: values beyond the largest float16, clamped to it");
    field.maybe("flushed", self.flushed, "of a tensor: values that became 0");
    field.maybe("largest", self.largest, "of a tensor: the largest value");
    field.maybe("raised_scales", self.raised_scales, "of a linear");
    field.maybe("clamped_scales", self.clamped_scales, "of a linear");
  }
};

struct FileRecord {
  std::string format;
  std::string name;
  int64_t bytes = 0;

  static void describe(auto& field, auto& self) {
    field("format", self.format);
    field("name", self.name);
    field("bytes", self.bytes);
  }
};

// Whether the result is as good as was asked for.
struct GateRecord {
  std::optional<double> max_kl;
  std::optional<bool> passed;

  static void describe(auto& field, auto& self) {
    field("max_kl", self.max_kl, "null without --max-kl");
    field("passed", self.passed,
          "null without a limit, and where --bits mixed chose by the limit and nothing was evaluated. The same "
          "command with another limit, or none, changes both in a finished report");
  }
};

// The whole of report.json.
struct Report {
  int64_t schema = 1;
  OptionValues options;
  InputRecord input;
  RunRecord run;
  ModelRecord model;
  CalibrationRecord calibration;
  HeldBackRecord held_back;
  std::optional<MixedRecord> mixed;
  std::optional<RoundingRecord> rounding_choice;
  std::vector<LinearRecord> linears;
  std::vector<ScaleRecord> scales;
  double invariance_error = 0;
  std::vector<SkippedRecord> skipped;
  std::vector<std::string> kept_in_16_bits;
  std::vector<std::string> padded;
  std::vector<ClampedRecord> clamped;
  std::vector<FileRecord> files;
  std::vector<std::string> warnings;
  GateRecord gate;

  // The text of report.json.
  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("schema", self.schema, "1");
    field("options", self.options, "everything that was asked for, with `auto` resolved");
    field("input", self.input);
    field("run", self.run);
    field("model", self.model);
    field("calibration", self.calibration);
    field("held_back", self.held_back);
    field.since("mixed", self.mixed, "null, or with --target-bits or --bits mixed");
    field.since("rounding_choice", self.rounding_choice, "null, or with --guard");
    field("linears", self.linears);
    field.since("scales", self.scales);
    field("invariance_error", self.invariance_error,
          "largest relative change that folding alone made to a block's output (limit 1e-4)");
    field("skipped", self.skipped);
    field("kept_in_16_bits", self.kept_in_16_bits, "names of tensors");
    field.since("padded", self.padded, "names of tensors");
    field("clamped", self.clamped);
    field.since("files", self.files, "what was written");
    field.since(
        "warnings", self.warnings,
        "what the run warned of, what opening the model found, and what the files cannot hold of what was measured");
    field("gate", self.gate);
  }
};

}  // namespace metal_marlin
