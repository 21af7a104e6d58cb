// Every record of a report names its fields here, once. A visitor is called as
//   v(key, field, text)        always in JSON
//   v.since(key, field, text)  the same; reports of earlier versions may lack it, and then it keeps its default
//   v.maybe(key, field, text)  an optional that is absent in JSON while it is empty
// json_records.cc writes and reads JSON by it, strings.h visits all strings, fields.cc lists the table of
// docs/report.md and the Python classes. `text` is what those say of the field.
#pragma once

#include <metal_marlin/report_records.h>

#include <concepts>
#include <type_traits>

#include "report/block_record.h"

namespace metal_marlin {

template <class R, class Record>
concept RecordOf = std::same_as<std::remove_const_t<R>, Record>;

template <class V, RecordOf<InputRecord> R>
void describe(V& v, R& r) {
  v("path", r.path, "the model as it was named, without the folders of this machine");
  v.since("format", r.format, "what it is stored as: safetensors, gguf, awq, gptq, ...");
  v.since("family", r.family, "such as llama");
  v.since("chat_template", r.chat_template, "whether it has one");
  v.since("digest", r.digest, "of the weights");
}

template <class V, RecordOf<StageRecord> R>
void describe(V& v, R& r) {
  v("seconds", r.seconds, "");
  v("cpu_seconds", r.cpu_seconds, "of all threads");
}

template <class V, RecordOf<ForwardRecord> R>
void describe(V& v, R& r) {
  v("precision", r.precision, "bf16 or f32");
  v("operations", r.operations, "additions and multiplications of linears and of the visible part of attention");
  v("cpu_seconds", r.cpu_seconds, "");
  v("gflops_per_core", r.gflops_per_core, "of that pass");
  v("gemm_gflops_per_core", r.gemm_gflops_per_core, "of plain matrix products, measured in the same run");
  v("share_of_gemm", r.share_of_gemm, "the one over the other");
}

template <class V, RecordOf<MachineRecord> R>
void describe(V& v, R& r) {
  v("cpu", r.cpu, "name of the processor");
  v("threads", r.threads, "that the run used");
  v.since("memory_bytes", r.memory_bytes, "that the machine or the container has");
  v.since("blas_kernel", r.blas_kernel, "kernel of the BLAS library");
  v.since("gemm_isa", r.gemm_isa, "instruction set of the matrix products");
}

template <class V, RecordOf<IdentityModel> R>
void describe(V& v, R& r) {
  v("path", r.path, "");
  v("digest", r.digest, "of the weights");
}

template <class V, RecordOf<IdentityRecord> R>
void describe(V& v, R& r) {
  v.since("version", r.version, "of the program");
  v.since("model", r.model, "");
  v.since("options", r.options, "those that shape the result; a file stands by its kind");
  v.since("texts", r.texts, "digests of the texts");
  v.since("given", r.given, "the options that were named; they do not count");
}

template <class V, RecordOf<RunRecord> R>
void describe(V& v, R& r) {
  v("version", r.version, "of the program");
  v.since("finished", r.finished, "when, in UTC");
  v.since("command", r.command,
          "the command line, without folders of absolute paths; empty: not from the command line");
  v.since("output", r.output, "the name of OUT");
  v.since("fingerprint", r.fingerprint, "of the identity, without the model's path");
  v.since("identity", r.identity, "what makes the run the same as another");
  v("seconds", r.seconds, "of the last run of the command");
  v("cpu_seconds", r.cpu_seconds, "likewise, of all threads");
  v("peak_memory_bytes", r.peak_memory_bytes, "measured");
  v.since("predicted_memory_bytes", r.predicted_memory_bytes, "planned");
  v.since("resumed_blocks", r.resumed_blocks, "how many blocks came from an interrupted run");
  v("stages", r.stages, "by name");
  v.since("forward", r.forward, "the forward pass over the calibration text; null without such a pass");
  v("machine", r.machine, "");
}

template <class V, RecordOf<PerplexityRecord> R>
void describe(V& v, R& r) {
  v("reference", r.reference, "of the source; null without an evaluation, as are the next five");
  v("quantized", r.quantized, "of the result");
}

template <class V, RecordOf<DivergenceRecord> R>
void describe(V& v, R& r) {
  v("mean", r.mean, "KL(source, result), nats per position");
  v("standard_error", r.standard_error, "of the mean");
  v("p99", r.p99, "99 % of the positions are below");
}

template <class V, RecordOf<FormatRecord> R>
void describe(V& v, R& r) {
  v("format", r.format, "");
  v("bytes", r.bytes, "");
  v.since("bits_per_weight", r.bits_per_weight, "");
}

template <class V, RecordOf<PartRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "linears, embedding, head, linears in 16 bits, norms and biases");
  v("weights", r.weights, "how many");
  v("bytes", r.bytes, "in the result");
  v("source_bytes", r.source_bytes, "in the source");
}

// The fields that an evaluation has.
template <class V, class R>
void describe_evaluation(V& v, R& r) {
  v("perplexity", r.perplexity, "");
  v("kl_divergence", r.kl_divergence, "");
  v("top1_agreement", r.top1_agreement, "share of positions with the same most likely token, 0 to 1");
  v("positions", r.positions, "how many were scored");
  v("bits_per_weight", r.bits_per_weight, "of the whole checkpoint, of the first format");
  v("bytes", r.bytes, "likewise");
}

template <class V, RecordOf<EvaluationRecord> R>
void describe(V& v, R& r) {
  describe_evaluation(v, r);
}

template <class V, RecordOf<ModelRecord> R>
void describe(V& v, R& r) {
  describe_evaluation(v, r);
  v("linears_bits_per_weight", r.linears_bits_per_weight, "of the quantized linears alone");
  v.since("formats", r.formats, "each format that was written");
  v.since("parts", r.parts, "what the bytes of the first format are spent on");
  v.since("parameters", r.parameters, "of the source");
  v("source_bytes", r.source_bytes, "");
  v.since("source_bits_per_weight", r.source_bits_per_weight, "");
}

template <class V, RecordOf<FewTokensRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "weight of a linear with less than 4 tokens for each input channel");
  v("in_features", r.in_features, "its input channels");
  v("tokens", r.tokens, "that its statistics are of");
}

template <class V, RecordOf<SourceRecord> R>
void describe(V& v, R& r) {
  v("source", r.source, "a file, self or builtin");
  v("kind", r.kind, "text, conversations, self, builtin or statistics");
  v.maybe("weight", r.weight, "its part in the mixture");
  v.maybe("share", r.share, "of the program's own text beside files: its share of the sequences");
  v.maybe("sequences", r.sequences, "before a selection");
  v("tokens", r.tokens, "before a selection");
  v.maybe("temperature", r.temperature, "of self-made text");
  v.maybe("seed", r.seed, "likewise");
  v.maybe("sequence_length", r.sequence_length, "likewise, tokens");
}

template <class V, RecordOf<SelectedRecord> R>
void describe(V& v, R& r) {
  v("source", r.source, "");
  v("index", r.index, "number of the sequence there, from 0");
}

template <class V, RecordOf<SelectionRecord> R>
void describe(V& v, R& r) {
  v("pool", r.pool, "sequences to choose from");
  v("blocks", r.blocks, "of the model that they were judged by");
  v("coverage", r.coverage, "share of what the whole pool covers");
  v("sequences", r.sequences, "those that were chosen");
}

// The fields that a text of any use has.
template <class V, class R>
void describe_text(V& v, R& r) {
  v.since("sources", r.sources, "where the text came from");
  v.since("selection", r.selection, "null, or with --select");
}

template <class V, RecordOf<TextRecord> R>
void describe(V& v, R& r) {
  describe_text(v, r);
}

template <class V, RecordOf<CalibrationRecord> R>
void describe(V& v, R& r) {
  v("source", r.source, "all sources in one text");
  v("sequences", r.sequences, "0 with statistics from a file");
  v("tokens", r.tokens, "that the statistics are of");
  v.since(
      "first_token_weight", r.first_token_weight,
      "how many times first tokens count in the Gram matrices; 1 too where statistics from a file do not know them");
  v.since("few_tokens", r.few_tokens, "");
  describe_text(v, r);
  v.maybe("made_from", r.made_from, "of statistics from a file: what the file says of its text");
}

template <class V, RecordOf<HeldBackRecord> R>
void describe(V& v, R& r) {
  v("source", r.source, "the text of the evaluation");
  v.since("kind", r.kind,
          "self (made by the model), calibration (a held-back part of it), file (--evaluate FILE), none");
  v("chunks", r.chunks, "");
  v.since("tokens", r.tokens, "");
}

template <class V, RecordOf<ChosenRecord> R>
void describe(V& v, R& r) {
  v("rounding", r.rounding, "nearest, feedback or refined");
  v("damping", r.damping, "");
  v.since("nearest", r.nearest, "relative output error on the validation split, for a sample of the rows");
  v.since("feedback", r.feedback, "likewise");
  v.since("refined", r.refined, "likewise");
}

template <class V, RecordOf<LinearRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "of the weight; a part of a fused one as NAME[q]");
  v("shape", r.shape, "[out_features, in_features]");
  v.since("method", r.method, "");
  v.since("bits", r.bits, "of a code");
  v.since("group_size", r.group_size, "");
  v("weight_error", r.weight_error, "see below");
  v("output_error", r.output_error, "see below; null where it was not measured");
  v("held_back_output_error", r.held_back_output_error, "likewise");
  v.since("scale_range", r.scale_range, "least and largest scale");
  v("clipped_share", r.clipped_share, "share of weights more than half a step outside their group's range");
  v("saturated_share", r.saturated_share, "share of codes at an end of the grid");
  v.since("zero_groups", r.zero_groups, "groups of zeros alone");
  v.since("raised_scales", r.raised_scales, "scales below the least normal float16, raised to it");
  v.since("clamped_scales", r.clamped_scales, "scales above the largest float16, clamped to it");
  v.maybe("clipped_groups", r.clipped_groups, "with AWQ's clip search: groups whose limit is below the largest weight");
  v.maybe("lifted_zeros", r.lifted_zeros, "zero points raised to the least that the format holds");
  v.maybe("damping", r.damping, "of the error feedback");
  v.maybe("refined_codes", r.refined_codes, "codes that refinement changed, once for each pass");
  v.maybe("refined_scales", r.refined_scales, "scales that refinement changed");
  v.maybe("chosen", r.chosen, "what the guard chose");
  v.since("seconds", r.seconds, "");
}

template <class V, RecordOf<ScaleRecord> R>
void describe(V& v, R& r) {
  v("layer", r.layer, "");
  v("tap", r.tap, "the input: qkv, o, gate_up or down");
  v.since("fold", r.fold, "what took the scales, and from which linears");
  v.since("producer", r.producer, "the module whose output was divided by them");
  v.since("ratio", r.ratio, "the exponent");
  v.since("loss", r.loss, "over that without scales");
  v.since("least", r.least, "least scale");
  v.since("largest", r.largest, "largest scale");
  v.since("seconds", r.seconds, "");
}

template <class V, RecordOf<GridRecord> R>
void describe(V& v, R& r) {
  v("bits", r.bits, "16: not quantized");
  v("group_size", r.group_size, "-1: a row");
  v.since("symmetric", r.symmetric, "");
  v.since("storage_bits", r.storage_bits, "of all weights, scales and zeros");
  v("estimated_kl", r.estimated_kl, "nats");
}

template <class V, RecordOf<ChosenGridRecord> R>
void describe(V& v, R& r) {
  v("bits", r.bits, "16: not quantized");
  v("group_size", r.group_size, "-1: a row");
  v("estimated_kl", r.estimated_kl, "nats");
}

template <class V, RecordOf<SensitivityItem> R>
void describe(V& v, R& r) {
  v("layer", r.layer, "");
  v("tap", r.tap, "the input: qkv, o, gate_up or down");
  v.since("linears", r.linears, "names of the weights that share it");
  v("weights", r.weights, "how many");
  v("kl", r.kl, "KL divergence of the model in which they alone are quantized, nats");
  v.since("kl_standard_error", r.kl_standard_error, "");
  v.since("options", r.options, "what they could be stored as");
  v.maybe("chosen", r.chosen, "");
}

// The fields that every measurement of sensitivity has.
template <class V, class R>
void describe_sensitivity(V& v, R& r) {
  v.since("sequences", r.sequences, "that were measured on");
  v("tokens", r.tokens, "likewise");
  v.since("statistics_tokens", r.statistics_tokens, "that the linears were calibrated on for it");
  v("kl_together", r.kl_together, "KL divergence when all are quantized");
  v("items", r.items, "");
}

template <class V, RecordOf<SensitivityRecord> R>
void describe(V& v, R& r) {
  describe_sensitivity(v, r);
}

template <class V, RecordOf<SensitivityReport> R>
void describe(V& v, R& r) {
  describe_sensitivity(v, r);
  v.since("interaction", r.interaction, "kl_together over the sum of the items'");
  v.since("method", r.method, "");
  v.since("scheme", r.scheme, "");
  v.since("bits", r.bits, "");
  v.since("group_size", r.group_size, "");
  v.since("calibration", r.calibration, "");
}

template <class V, RecordOf<MixedRecord> R>
void describe(V& v, R& r) {
  describe_sensitivity(v, r);
  v.since("interaction", r.interaction, "kl_together over the sum of the items'");
  v.since("target_bits", r.target_bits, "null where a limit of the KL divergence chose");
  v("bits_per_weight", r.bits_per_weight, "of the choice, as --target-bits counts");
  v("estimated_kl", r.estimated_kl, "of the choice");
  v("file_bits_per_weight", r.file_bits_per_weight, "all that the first format's file holds for these linears");
}

template <class V, RecordOf<RoundingRecord> R>
void describe(V& v, R& r) {
  v("sequences", r.sequences, "of the validation split, that it was judged on");
  v("refined", r.refined, "linears that were refined");
  v("feedback", r.feedback, "linears rounded with error feedback alone");
  v("nearest", r.nearest, "linears rounded to nearest");
  v("fallbacks", r.fallbacks, "linears with less than the recipe's steps");
  v.since("damping", r.damping, "which damping for how many");
}

template <class V, RecordOf<SkippedRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "a linear that is not quantized, or a tensor that is left out");
  v("reason", r.reason, "");
}

template <class V, RecordOf<ClampedRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "a linear whose scales, or a tensor whose values float16 cannot hold");
  v.maybe("format", r.format, "of a tensor: of which format");
  v.maybe("clamped", r.clamped, "of a tensor: values beyond the largest float16, clamped to it");
  v.maybe("flushed", r.flushed, "of a tensor: values that became 0");
  v.maybe("largest", r.largest, "of a tensor: the largest value");
  v.maybe("raised_scales", r.raised_scales, "of a linear");
  v.maybe("clamped_scales", r.clamped_scales, "of a linear");
}

template <class V, RecordOf<FileRecord> R>
void describe(V& v, R& r) {
  v("format", r.format, "");
  v("name", r.name, "");
  v("bytes", r.bytes, "");
}

template <class V, RecordOf<GateRecord> R>
void describe(V& v, R& r) {
  v("max_kl", r.max_kl, "null without --max-kl");
  v("passed", r.passed,
    "null without a limit, and where --bits mixed chose by the limit and nothing was evaluated. The same command with "
    "another limit, or none, changes both in a finished report");
}

template <class V, RecordOf<Report> R>
void describe(V& v, R& r) {
  v("schema", r.schema, "1");
  v("options", r.options, "everything that was asked for, with `auto` resolved");
  v("input", r.input, "");
  v("run", r.run, "");
  v("model", r.model, "");
  v("calibration", r.calibration, "");
  v("held_back", r.held_back, "");
  v.since("mixed", r.mixed, "null, or with --target-bits or --bits mixed");
  v.since("rounding_choice", r.rounding_choice, "null, or with --guard");
  v("linears", r.linears, "");
  v.since("scales", r.scales, "");
  v("invariance_error", r.invariance_error,
    "largest relative change that folding alone made to a block's output (limit 1e-4)");
  v("skipped", r.skipped, "");
  v("kept_in_16_bits", r.kept_in_16_bits, "names of tensors");
  v.since("padded", r.padded, "names of tensors");
  v("clamped", r.clamped, "");
  v.since("files", r.files, "what was written");
  v.since("warnings", r.warnings,
          "what the run warned of, what opening the model found, and what the files cannot hold of what was measured");
  v("gate", r.gate, "");
}

template <class V, RecordOf<MemoryRecord> R>
void describe(V& v, R& r) {
  v("base", r.base, "program, libraries, tokenizer");
  v("states", r.states, "hidden states, in memory");
  v("spilled", r.spilled, "hidden states, in scratch files");
  v("block", r.block, "one block");
  v("statistics", r.statistics, "Gram matrices");
  v("forward_scratch", r.forward_scratch, "");
  v("quantize_scratch", r.quantize_scratch, "");
  v("head", r.head, "head and rows of logits");
  v("self_text", r.self_text, "making the text");
  v("selection", r.selection, "choosing sequences from a pool");
  v("sensitivity", r.sensitivity, "measuring what each linear's quantization costs");
  v("disk", r.disk, "journal and output");
  v("peak_bytes", r.peak_bytes, "the most memory that is held at once");
}

template <class V, RecordOf<PlannedLinear> R>
void describe(V& v, R& r) {
  v("name", r.name, "of the weight");
  v("shape", r.shape, "[out_features, in_features]");
  v("bits", r.bits, "of a code; where the run chooses the bits, the number that it starts from");
}

template <class V, RecordOf<PlannedSize> R>
void describe(V& v, R& r) {
  v("format", r.format, "");
  v("bytes", r.bytes, "of all tensors; an upper bound where options.mixed_bits is true, as are those of the parts");
  v("parts", r.parts, "as model.parts of report.json; linears whose bits the run chooses are all in linears");
}

template <class V, RecordOf<PlannedMachine> R>
void describe(V& v, R& r) {
  v("cpu", r.cpu, "name of the processor");
  v("threads", r.threads, "that the run would use");
  v("gemm_gflops_per_core", r.gemm_gflops_per_core, "of matrix products in f32, measured");
}

template <class V, RecordOf<Plan> R>
void describe(V& v, R& r) {
  v("model", r.model, "");
  v("output", r.output, "");
  v("options", r.options, "as in report.json");
  v("start", r.start, "fresh, resume, redo or complete; null where OUT stops the run");
  v("finished_blocks", r.finished_blocks, "of the run that would be resumed");
  v("stops", r.stops, "why the run would stop; empty: it would not");
  v("exit_code", r.exit_code, "of the run, as far as it can be known before");
  v("calibration_tokens", r.calibration_tokens, "");
  v("builtin_tokens", r.builtin_tokens, "those of them that are of the program's own text");
  v("held_back_tokens", r.held_back_tokens, "");
  v("evaluation_text", r.evaluation_text, "the file that --evaluate names");
  v("quantized", r.quantized, "");
  v("quantized_weights", r.quantized_weights, "");
  v("quantized_bytes", r.quantized_bytes, "of codes, scales and zeros; at most so many where the run chooses the bits");
  v("skipped", r.skipped, "");
  v("sizes", r.sizes, "of each format");
  v("source_bytes", r.source_bytes, "");
  v("memory", r.memory, "bytes");
  v("memory_budget", r.memory_budget, "bytes");
  v("disk_free_bytes", r.disk_free_bytes, "");
  v("seconds", r.seconds, "by stage, estimated");
  v("machine", r.machine, "");
  v("warnings", r.warnings, "");
}

template <class V, RecordOf<FlushedRecord> R>
void describe(V& v, R& r) {
  v("name", r.name, "");
  v("flushed", r.flushed, "");
  v("of", r.of, "");
}

template <class V, RecordOf<BlockRecord> R>
void describe(V& v, R& r) {
  v("linears", r.linears, "");
  v("scales", r.scales, "");
  v("invariance_error", r.invariance_error, "");
  v("changed", r.changed, "");
  v("flushed", r.flushed, "");
}

}  // namespace metal_marlin
