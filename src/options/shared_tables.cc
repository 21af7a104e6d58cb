// Options that several operations share: calibration, evaluation, machine, arithmetic.
#include <limits>

#include "options/sources.h"
#include "options/tables.h"

namespace metal_marlin {

const OptionTable<CalibrationOptions>& calibration_options() {
  using Options = CalibrationOptions;
  static const OptionTable<Options> table = [] {
    OptionTable<Options> t;
    const auto of_self_text = [](const Options& o, const Options&) {
      return std::string(has_source(o, SourceKind::kSelf) ? "" : "only --calibration self uses it");
    };
    t.group("Calibration");
    t.add(
         "--calibration", [](auto& o) -> auto& { return o.calibration; },
         "Where the activations come from: text that the model makes itself; text that comes with the program; a UTF-8 "
         "text file; conversations or texts in JSON Lines (FILE.jsonl: messages, ShareGPT's conversations, text). Give "
         "it several times to mix sources")
        .called("self|builtin|FILE")
        .completed_by(Completes::kFiles)
        .in_python("StrPath | Sequence[StrPath]");
    t.add(
         "--samples", [](auto& o) -> auto& { return o.samples; }, "Number of calibration sequences")
        .in_range(1, kMostSequences)
        .by_default(std::to_string(kSamples))
        .follows_method();
    t.advanced();
    t.add(
         "--calibration-weights", [](auto& o) -> auto& { return o.calibration_weights; },
         "Proportions in which several sources give sequences, one number for each in their order")
        .in_range(1e-6, 1e6)
        .by_default("equal ones")
        .idle([](const Options& o, const Options&) {
          const bool used = o.calibration.size() > 1 || o.calibration_weights.empty();
          return std::string(used ? "" : "there is one source alone");
        });
    t.add(
         "--select", [](auto& o) -> auto& { return o.select; },
         "Of these sequences calibrate on the N that cover the channels of the activations best; costs a forward pass "
         "of "
         "all of them")
        .in_range(1, kMostSequences)
        .must([](int64_t n) { return n >= 0 && n <= kMostSequences; }, "")
        .by_default("all of them");
    t.add(
         "--sequence-length", [](auto& o) -> auto& { return o.sequence_length; }, "Tokens of each calibration sequence")
        .in_range(8, kMostSequenceLength);
    t.add("--seed", [](auto& o) -> auto& { return o.seed; }, "Seed of the self-made text").idle(of_self_text);
    t.add(
         "--temperature;--temp", [](auto& o) -> auto& { return o.temperature; },
         "Sampling temperature of the self-made text")
        .in_range(0.01, 10)
        .idle(of_self_text);
    t.add(
        "--bos", [](auto& o) -> auto& { return o.bos; },
        "Whether sequences begin with the BOS token; auto: as the tokenizer's settings say");
    return t;
  }();
  return table;
}

const OptionTable<CalibrateExtras>& calibrate_options() {
  static const OptionTable<CalibrateExtras> table = [] {
    OptionTable<CalibrateExtras> t;
    t.group("Input and result");
    t.add(
        "--overwrite", [](auto& o) -> auto& { return o.overwrite; }, "Replace statistics of this program in STATS.npz");
    t.add(
         "--gram", [](auto& o) -> auto& { return o.gram; },
         "Collect Gram matrices too; without them only rtn can use the file")
        .of_kind(OptionKind::kToggle);
    t.add(
        "--keep-activations", [](auto& o) -> auto& { return o.keep_activations; },
        "Also store the raw inputs of every weight as [samples, sequence_length, in_features]: large");
    return t;
  }();
  return table;
}

const OptionTable<EvaluationOptions>& evaluation_options() {
  static const OptionTable<EvaluationOptions> table = [] {
    OptionTable<EvaluationOptions> t;
    t.group("Evaluation");
    t.add(
         "--text", [](auto& o) -> auto& { return o.text; }, "UTF-8 text, or JSON Lines (FILE.jsonl), to evaluate on")
        .called("FILE")
        .completed_by(Completes::kFiles)
        .is_required()
        .in_python("StrPath");
    t.add(
         "--chunks", [](auto& o) -> auto& { return o.chunks; },
         "Chunks from the start of the text, fewer when it is shorter")
        .in_range(1, kMostSequences);
    t.add(
         "--context;--ctx-size", [](auto& o) -> auto& { return o.context; },
         "Tokens of a chunk; every position but its first is scored")
        .in_range(8, kMostSequenceLength);
    t.add(
        "--bos", [](auto& o) -> auto& { return o.bos; },
        "Whether sequences begin with the BOS token; auto: as the tokenizer's settings say");
    return t;
  }();
  return table;
}

const OptionTable<EvaluateExtras>& evaluate_options() {
  static const OptionTable<EvaluateExtras> table = [] {
    OptionTable<EvaluateExtras> t;
    t.group("Input");
    t.add(
         "--reference", [](auto& o) -> auto& { return o.reference; },
         "The original model: adds KL divergence and agreement of the likeliest token")
        .called("REF")
        .completed_by(Completes::kFiles)
        .in_python("StrPath | None");
    return t;
  }();
  return table;
}

const OptionTable<MachineOptions>& machine_options() {
  static const OptionTable<MachineOptions> table = [] {
    OptionTable<MachineOptions> t;
    t.group("Machine");
    t.add(
         "--memory", [](auto& o) -> auto& { return o.memory_bytes; },
         "Peak resident memory to stay within, e.g. 4GiB or 700MB")
        .of_kind(OptionKind::kBytes)
        .called("SIZE")
        .by_default("what the machine has, less a margin")
        .keyed("memory_bytes")
        .shapes_nothing();
    t.add(
         "-t,--threads", [](auto& o) -> auto& { return o.threads; }, "Threads")
        .in_range(1, 4096)
        .must([](int64_t n) { return n >= 0 && n <= 4096; }, "")
        .by_default("all processors that the process may use; generate, chat, bench: one on each of their cores")
        .shapes_nothing();
    t.advanced();
    t.add(
        "--precision", [](auto& o) -> auto& { return o.precision; },
        "Matrix products of the forward pass that makes statistics (evaluate: of the model); auto: bf16 where the "
        "processor multiplies it faster, evaluate f32");
    return t;
  }();
  return table;
}

const OptionTable<ComputeOptions>& compute_options() {
  static const OptionTable<ComputeOptions> table = [] {
    OptionTable<ComputeOptions> t;
    t.group("Machine");
    t.advanced();
    t.add(
        "--compute", [](auto& o) -> auto& { return o.compute; },
        "Arithmetic of the linears; int8: quantized ones as they are stored, with activations in 8 bits; bf16, f32: "
        "all "
        "turned into floats first; auto: int8 for quantized models that generate, else f32 or what --precision says");
    t.add(
         "--head", [](auto& o) -> auto& { return o.head; },
         "Bits of the head, which makes the probabilities of the tokens; auto: 8 where a model generates with int8, "
         "else 16")
        .of_kind(OptionKind::kChoice)
        .one_of({"auto", "16", "8"});
    t.add(
         "--kv", [](auto& o) -> auto& { return o.kv; },
         "Bits of the keys and values of earlier tokens; auto: 32 with --compute f32, else 16")
        .of_kind(OptionKind::kChoice)
        .one_of({"auto", "32", "16", "8"});
    return t;
  }();
  return table;
}

}  // namespace metal_marlin
