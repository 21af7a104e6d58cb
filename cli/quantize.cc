// metal-marlin quantize: the main job.
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <fmt/format.h>

#include <filesystem>
#include <limits>
#include <memory>

#include "console.h"
#include "options.h"
#include "signals.h"
#include "subcommands.h"
#include "values.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string output;
  QuantizeOptions options;
  SharedTexts texts;
  OutputOptions console;
  std::string bits = "4";
  bool dry_run = false;
  bool verbose = false;
};

// The stages of quantize_model. The shares are those of a run with the defaults.
const std::vector<Phase> kPhases = {
    {"preparing", "", 0.10, {"prepare", "check", "tokenize", "self text", "select", "sensitivity"}},
    {"quantizing",
     "block",
     0.80,
     {"embed", "load", "forward", "statistics", "read statistics", "search scales", "check folds", "choose rounding",
      "round", "measure", "evaluate", "journal", "save states", "replay"}},
    {"evaluating", "part", 0.05, {"score"}},
    {"writing", "tensor", 0.05, {"write", "report"}},
};

// What is where, and what to do with it.
std::string next_steps(const State& state, const QuantizeResult& result) {
  const std::vector<std::string>& formats = state.options.formats;
  const std::filesystem::path output(state.output);
  const std::string folder = formats.size() == 1 ? state.output : (output / formats.front()).string();
  std::string text = fmt::format("{:<14} {}", "result", state.output);
  if (formats.size() > 1) text += fmt::format(" (a folder for each format: {})", join(formats, ", "));
  text += fmt::format("\n{:<14} {}\n", "report", (output / "report.html").string());
  const std::string use = result.report.input.chat_template
                              ? fmt::format("metal-marlin chat {}", shell_word(folder))
                              : fmt::format("metal-marlin generate {} -p TEXT", shell_word(folder));
  text += fmt::format("{:<14} {} (README.md there shows other programs)\n", "try it", use);
  return text;
}

void check_options(const QuantizeOptions& options) {
  if (options.group_size != "auto" && options.group_size != "-1") {
    int64_t size = 0;
    try {
      size = parse_integer(options.group_size, 8, std::numeric_limits<int64_t>::max());
    } catch (const UsageError&) {
    }
    if (size % 8 != 0 || size == 0)
      throw UsageError{
          fmt::format("--group-size: expected auto, -1 or a multiple of 8 such as 32, found '{}'", options.group_size)};
  }
  const bool chooses_by_it =
      options.mixed_bits && options.target_bits == 0;  // by the estimate, which needs no evaluation
  if (options.evaluation.text == "none" && options.max_kl >= 0 && !chooses_by_it)
    throw UsageError{"--max-kl needs an evaluation: leave out --evaluate none"};
}

int run(const Command& command, State& state) {
  QuantizeOptions& options = state.options;
  options.given = command.given();
  options.command = command.line();
  options.mixed_bits = state.bits == "mixed";
  options.bits = options.mixed_bits ? 4 : static_cast<int>(parse_integer(state.bits, 1, 8));
  options.calibration.bos = options.evaluation.bos = bos_of(state.texts);
  options.machine.threads = static_cast<int>(state.texts.threads);
  check_options(options);
  Console console(state.console);
  if (state.dry_run) {
    const Plan plan = plan_quantization(state.model, state.output, options, console.observer());
    console.result(console.json() ? plan.to_json() : render_plan(plan));
    if (!plan.stops.empty()) console.error("the run would stop: " + plan.stops);
    return static_cast<int>(plan.exit_code);
  }
  const StopOnSignal signals;
  QuantizeResult result;
  try {
    result = quantize_model(state.model, state.output, options, console.observer(kPhases));
  } catch (const Interrupted&) {
    console.stopped(fmt::format("what is finished is kept in {}: run the same command {}to continue", state.output,
                                options.resume ? "again " : "without --no-resume "));
    return kExitInterrupted;
  }
  if (result.already_complete)
    console.info(fmt::format("{} already holds the result of this command: nothing was left to do", state.output));
  if (console.json()) {
    console.result(result.report.to_json());
  } else if (console.quiet()) {
    console.result(state.output);
  } else {
    console.result((state.verbose ? render_report_text(result.report) + "\n" : render_report_summary(result.report)) +
                   next_steps(state, result));
  }
  if (result.passed_gate) return 0;
  const double mean = result.report.model.kl_divergence.mean.value_or(0);
  console.error(fmt::format("the mean KL divergence {:.4g} exceeds --max-kl {:g}: the result in {} misses the limit",
                            mean, options.max_kl, state.output));
  return kExitMissedGate;
}

}  // namespace

void add_quantize(Application& application) {
  auto& command = application.add_command(
      "quantize", "Turn a model into a 4-bit checkpoint (or one of 3 or 8 bits), evaluate it and report");
  auto state = std::make_shared<State>();
  QuantizeOptions& options = state->options;

  command.group("Input and result");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.text("-o,--output", state->output, "OUT",
               "Folder to write: weights, config, tokenizer, model card, report.json", Completes::kFolders, true);
  command.choice_list(
      "--format", options.formats, {"native", "awq", "gptq", "gptq_v2", "marlin"},
      "Checkpoint format; several, separated by commas, come from one calibration into one subfolder each");
  command.toggle("resume", options.resume, "Continue an interrupted run of the same model and options");
  command.flag("--overwrite", options.overwrite, "Replace a result or an interrupted run of this program in OUT");
  command.flag(
      "--dry-run", state->dry_run,
      "Only print the plan: tensors, what is skipped and why, memory, disk and time; the exit code is that of the run");

  command.group("Quantization");
  command.choice("--method", options.method, {"awq", "awq-paper", "awq-salient", "gptq", "rtn"},
                 "awq: the best recipe: scales searched, ranges by the Gram matrix, error feedback, refinement; "
                 "awq-paper: scales and clips searched as published; "
                 "awq-salient: only "
                 "salient channels scaled; gptq: error feedback; rtn: plain rounding");
  command.choice("--effort", options.effort, {"best", "fast"},
                 "awq: fast: 16 calibration sequences unless --samples says otherwise, refinement without error "
                 "feedback, no guard: a third of the "
                 "time, less accurate");
  command.choice("--scheme", options.scheme, {"asym", "sym"},
                 "asym: codes with a zero point, 0..15 at 4 bits; sym: signed codes, -8..7 at 4 bits");
  command.choice(
      "--bits", state->bits, {"3", "4", "8", "mixed"},
      "Bits of a code; 3 and 8 in the formats native and gptq_v2, 8 also in gptq; mixed: each linear its own, as "
      "--target-bits or --max-kl says");
  command.real("--target-bits", options.target_bits, 2, 16,
               "Bits per weight of the linears at most: codes, 16 bits for each scale and, with --scheme asym, a zero "
               "of a code's "
               "width (what a layout adds, such as the 16-bit zeros of native, is reported, not counted). Bits and "
               "group size are "
               "chosen for each linear (q,k,v and gate,up alike) by the KL divergence that its quantization causes",
               "none");
  command.text(
      "--group-size", options.group_size, "auto|128|64|32|-1",
      "Weights that share a scale; auto: 128 where it divides every in_features, else 64, else 32; -1: a whole row",
      Completes::kChoices);
  command.repeated("--skip", options.skip, "PATTERN",
                   "Shell pattern of weight names that stay in 16 bits, e.g. '*.layers.0.*'");
  command.advanced();
  command.integer("--sensitivity-tokens", options.sensitivity_tokens, 1, int64_t{1} << 24,
                  "Tokens of the calibration text on which those KL divergences are measured");
  command.repeated(
      "--linear-bits", options.linear_bits, "PATTERN=BITS[:GROUP]",
      "Bits (3, 4, 8; 16: not quantized) and group size of the weights whose names match a shell pattern, e.g. "
      "'*.down_proj.*=8'; the last that matches counts");
  command.choice(
      "--range", options.range, {"auto", "absmax", "mse", "gram", "diagonal"},
      "How the range of a group is chosen: auto: the method's own; absmax: largest magnitude (asym: min and max); "
      "mse: least error of the weights; gram: least error of the outputs; diagonal: the same as if the group's "
      "channels were uncorrelated");
  command.choice("--clip", options.clip, {"auto", "on", "off"}, "Clip search; auto: on for awq-paper");
  command.choice("--guard", options.guard, {"auto", "on", "off"},
                 "Judge error feedback and refinement of each linear on the last eighth of the calibration sequences: "
                 "as much damping as does well there, plainer rounding where they do worse; auto: on for awq");
  command.choice(
      "--awq-loss", options.awq_loss, {"auto", "linear", "feedback", "block"},
      "Loss of the scale search: linear: output error of the linears that share the input; feedback: the same after "
      "error feedback; block: the block is run again on a part of the tokens; auto: feedback for awq, else linear");
  command.real(
      "--first-token-weight", options.first_token_weight, 1, 1e6,
      "How many times the first token of a sequence counts in the Gram matrices: every other token attends to it",
      "9 for awq, else 1");
  command.real("--salient-ratio", options.salient_ratio, 0, 1,
               "awq-salient: share of the weights that decide which channels are scaled");
  command.choice("--activation-method", options.activation_method, {"auto", "mean", "max", "rms"},
                 "Statistic of the scale search; auto: mean, but rms for awq-salient");
  command.real("--damping", options.damping, 0, 1,
               "gptq, awq: share of each diagonal entry of the Gram matrix that is added to it; with --guard the least "
               "that is tried",
               "0.01; awq with --guard off or STATS.npz 0.49, asymmetric 1");
  command.choice("--scale-search", options.scale_search, {"auto", "on", "off"},
                 "Activation-aware scales of the input channels, folded into the module before; auto: on for awq, "
                 "awq-paper, awq-salient");
  command.choice("--error-feedback", options.error_feedback, {"auto", "on", "off"},
                 "Rounding in which later columns make good the errors of earlier ones (GPTQ), else each weight to "
                 "nearest; auto: on for gptq and "
                 "awq, off with --effort fast");
  command.choice("--signed-scales", options.signed_scales, {"auto", "on", "off"},
                 "Searched ranges of --scheme sym: also negative scales, which give the longer side of a group its "
                 "extra code; auto: on for awq");
  command.choice("--refine", options.refine, {"auto", "on", "off"},
                 "After rounding: codes improved one by one and scales refitted on the Gram matrix; auto: on for awq");
  command.toggle("act-order", options.act_order, "gptq, awq: columns in order of decreasing diagonal");

  add_calibration_options(command, options.calibration, state->texts, true);
  command.real("--builtin-share", options.builtin_share, 0, 0.9,
               "Share of the sequences that comes from the program's own text of many kinds (code, dialogue, tables, "
               "mathematics, ...) "
               "where --calibration names files: what quantizes well for one kind of text alone does worse on others",
               "0.0625 for awq, else 0");

  command.group("Evaluation");
  command.text("--evaluate", options.evaluation.text, "FILE|none",
               "UTF-8 text, or JSON Lines (FILE.jsonl), to evaluate on, or none; without it a part of the calibration "
               "tokens is held back for it, on which "
               "the figures are better than on other text",
               Completes::kFiles, false, "the last tenth of the calibration tokens, at least 4096");
  command.real("--max-kl", options.max_kl, 0, std::numeric_limits<double>::max(),
               "Limit on the mean KL divergence: exit code 4 when it is missed", "none");
  command.advanced();
  command.integer("--chunks", options.evaluation.chunks, 1, kMostSequences,
                  "Chunks of the text to evaluate, fewer when it is shorter");
  command.integer("--context;--ctx-size", options.evaluation.context, 8, kMostSequenceLength, "Tokens of a chunk");

  add_machine_options(command, options.machine, state->texts, true, true);
  command.group("Output");
  command.flag("-v,--verbose", state->verbose,
               "Print the whole report at the end, as 'metal-marlin report OUT' does: all stages, all lists");
  add_output_options(command, state->console);

  command.example("Quantize with the defaults: asymmetric AWQ, calibrated on text of the model itself",
                  "metal-marlin quantize MODEL -o OUT");
  command.example("Two formats from one calibration on a text of yours, evaluated on another",
                  "metal-marlin quantize MODEL -o OUT --format native,awq --calibration train.txt --evaluate test.txt");
  command.example("Symmetric GPTQ with groups of 64 within 4 GiB",
                  "metal-marlin quantize MODEL -o OUT --method gptq --scheme sym --group-size 64 --memory 4GiB");
  command.example("See what would be done", "metal-marlin quantize MODEL -o OUT --dry-run");
  command.action([state, &command] { return run(command, *state); });
}

}  // namespace metal_marlin::cli
