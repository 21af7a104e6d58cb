// The main job: a model in, a 4-bit checkpoint and a report out.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/plan_records.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/report_records.h>

#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// A warning names the options that differ from their defaults (where they are empty by default: that were set) and have
// no effect on the run.
struct QuantizeOptions {
  CalibrationOptions calibration;
  MachineOptions machine;
  // The text of the evaluation. If evaluation.text is empty, the last tenth of the calibration text (at least 4,096
  // tokens) is held back: it is not part of the calibration set. "none": no evaluation. Otherwise evaluation.text is
  // read and nothing is held back.
  EvaluationOptions evaluation;

  // "native", "awq", "gptq" (version 1), "gptq_v2", "marlin", "compressed-tensors", "mlx", "gguf:Q4_0" and the like;
  // several: one subfolder each.
  std::vector<std::string> formats = {"awq"};
  uint64_t max_shard_bytes = 5'000'000'000;  // of tensors in one file; a linear's parts are never split
  // GGUF: the ggml type of the embedding and of the head ("Q8_0", "F16", ...). Empty: the head has Q6_K, or Q8_0 where
  // its columns are no multiple of 256, and so has an embedding that is the head; another has that of most linears.
  std::optional<std::string> embedding_type;
  std::optional<std::string> head_type;
  // MLX: bits of the embedding and the head, rounded row by row; 16: they stay floats. Other formats leave them as they
  // are.
  int embedding_bits = 8;
  Method method = Method::kAwq;
  Effort effort = Effort::kBest;
  Scheme scheme = Scheme::kAsymmetric;
  int bits = 4;  // 2 to 8: "awq", "marlin" hold 4, "gptq" 2, 4, 8, "gptq_v2" also 3, "native" 3, 4, 8, "mlx" not 7
  // Mixed precision: each set of linears that engines fuse (q,k,v; gate,up) gets bits of its own, chosen so that the
  // estimated KL divergence of all is least. `bits` is the width that is measured, and must be 4. target_bits bounds
  // the linears' bits per weight, 2 to less than 16; empty: no target. It counts codes, 16 bits for each scale and, in
  // an asymmetric scheme, a zero of a code's width; a weight that is not quantized counts 16. What a layout adds is
  // reported, not counted.
  std::optional<double> target_bits;
  bool mixed_bits = false;            // without target_bits: the fewest bits whose estimated KL divergence meets max_kl
  int64_t sensitivity_tokens = 1024;  // of the calibration text, on which the KL divergences are measured
  // "PATTERN=BITS" or "PATTERN=BITS:GROUP": bits (2 to 8; 16: not quantized) and group size of the linears whose
  // weights' names match the shell pattern. The last pattern that matches counts.
  std::vector<std::string> linear_bits;
  // Weights of a row that share a scale: a multiple of 8, or -1 for a whole row. Empty: 128 where it divides every
  // in_features, else 64, else 32.
  std::optional<int64_t> group_size;
  std::optional<RangeChoice> range;  // empty: the method's own
  Switch clip;                       // AWQ's clip search; empty: on for kAwqPaper with absmax ranges
  // Whether negative scales are tried too, for symmetric grids with searched ranges. A symmetric grid has one code more
  // on one side; a negative scale puts it on the longer side of the group. Empty: on for kAwq.
  Switch signed_scales;
  // Activation-aware scales, searched and folded; empty: on for kAwq, kAwqPaper, kAwqSalient.
  Switch scale_search;
  // GPTQ's error feedback; without it each weight is rounded to nearest. Empty: on for kGptq, and for kAwq unless
  // effort is kFast.
  Switch error_feedback;
  // Refinement after rounding: code passes by coordinate descent and a refit of the scales, all on the Gram matrix.
  // Empty: on for kAwq.
  Switch refine;
  // Judges error feedback and refinement on a validation split, the last eighth of the calibration sequences, before
  // they are applied. Where plainer rounding or more damping does better there, it is taken. Empty: on for kAwq; true
  // acts on kGptq as well.
  Switch guard;
  std::optional<ScaleLoss> awq_loss;  // empty: kFeedback for kAwq, else kLinear
  // How many times the first token of a calibration sequence counts in the Gram matrices, >= 1. Empty: 9 for kAwq, 1
  // for the others.
  std::optional<double> first_token_weight;
  // The share, 0 to 0.9, of the sequences that are taken from the program's own text ("builtin", docs/calibrate.md)
  // where all sources are files. Empty: a sixteenth for kAwq, none for the others.
  std::optional<double> builtin_share;
  double salient_ratio = 0.01;                 // kAwqSalient: share of weights that decide which channels are scaled
  std::optional<Statistic> activation_method;  // of the scale search; empty: kMean, kRms for kAwqSalient
  // kGptq, kAwq: the share of each diagonal entry of the Gram matrix that is added to it, 0 to 1. With the guard it is
  // the least that is tried. Empty: 0.01; for kAwq without the guard 0.49 (asymmetric 1), which the guard chooses
  // mostly.
  std::optional<double> damping;
  bool act_order = true;          // kGptq, kAwq: columns in order of decreasing diagonal
  std::vector<std::string> skip;  // shell patterns of weight names left in 16 bits, e.g. "*.layers.0.*"
  bool resume = true;             // continue an interrupted run of the same model and options
  bool overwrite = false;         // replace a result or an interrupted run of other options
  std::optional<double> max_kl;   // quality gate on the mean KL divergence, in nats; empty: none
  std::string command;            // how the run was asked for, as the report repeats it; empty: not told
};

struct QuantizeResult {
  Report report;  // what OUT/report.json holds
  bool already_complete = false;
  bool passed_gate = true;  // false: the mean KL divergence exceeds max_kl (everything is written all the same)

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("report", self.report, "as report.json");
    field("already_complete", self.already_complete, "the folder held this result before");
    field("passed_gate", self.passed_gate, "false: the mean KL divergence exceeds max_kl");
  }
};

// Returns what quantize_model would do, without doing it: tensors, what is skipped and why, memory, disk, time,
// warnings.
METAL_MARLIN_API Plan plan_quantization(const std::string& model, const std::string& output,
                                        const QuantizeOptions& options, const Observer& observer = {});

// Writes the folder `output`. If it is interrupted at any instant, the same call continues after the last finished
// block and ends with the same bytes. Throws Error subclasses; on Interrupted the work so far is kept in `output`.
METAL_MARLIN_API QuantizeResult quantize_model(const std::string& model, const std::string& output,
                                               const QuantizeOptions& options, const Observer& observer = {});

// Measures what quantizing each set of linears that share an input costs: the KL divergence of the model in which only
// they are quantized. It measures at 4 bits: ArgumentError for other `bits`. A warning names what was set and has no
// effect here: target_bits, mixed_bits, max_kl, evaluation, resume, overwrite. It writes only scratch files, in the
// system's folder for temporary files.
METAL_MARLIN_API SensitivityReport sensitivity_of_model(const std::string& model, const QuantizeOptions& options,
                                                        const Observer& observer = {});

struct CalibrateResult {
  std::string output;
  int64_t sequences = 0;
  int64_t tokens = 0;
  double seconds = 0;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("output", self.output, "the file");
    field("sequences", self.sequences, "that the statistics are of");
    field("tokens", self.tokens, "likewise");
    field("seconds", self.seconds);
  }
};
// Writes activation statistics into an .npz, or where the name ends in .gguf llama.cpp's imatrix (the sums of squares
// alone). An .npz has for each linear input mean, max, rms, token count and, unless gram is false, the Gram matrix.
// With keep_activations also the raw inputs per weight name, [samples, sequence_length, in_features] f32. ArgumentError
// when `output` is there already; with `overwrite` statistics that this function wrote are replaced, and any other file
// is refused.
METAL_MARLIN_API CalibrateResult calibrate_model(const std::string& model, const std::string& output,
                                                 const CalibrationOptions& options, const MachineOptions& machine,
                                                 bool gram = true, bool keep_activations = false,
                                                 const Observer& observer = {}, bool overwrite = false);

}  // namespace metal_marlin
