// metal-marlin quantize: the main job.
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "arguments/values.h"
#include "console/console.h"
#include "console/signals.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string output;
  QuantizeOptions options;
  OutputOptions console;
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

int run(const Command& command, State& state) {
  QuantizeOptions& options = state.options;
  options.command = command.line();
  Console console(state.console);
  if (state.verbose && console.quiet())
    throw UsageError{"--verbose and --quiet exclude each other: expected one of them, found both"};
  const char* silent = state.dry_run ? "--dry-run makes no report" : "--json prints all of the report";
  warn_of_idle(console, command, {{"verbose", state.dry_run || console.json() ? silent : ""}});
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
                            mean, options.max_kl.value_or(0), state.output));
  return kExitMissedGate;
}

}  // namespace

void add_quantize(Application& application) {
  auto& command = application.add_command(
      "quantize", "Turn a model into a 4-bit checkpoint (or one of 2 to 8 bits), evaluate it and report");
  auto state = std::make_shared<State>();
  QuantizeOptions& options = state->options;

  command.group("Input and result");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.text("-o,--output", state->output, "OUT",
               "Folder to write: weights, config, tokenizer, model card, report.json", Completes::kFolders, true);
  add_options(command, quantize_options(), options, {.group = "Input and result"});
  command.flag(
      "--dry-run", state->dry_run,
      "Only print the plan: tensors, what is skipped and why, memory, disk and time; the exit code is that of the run");

  for (const std::string& group : groups_of(quantize_options())) {
    if (group != "Input and result") add_options(command, quantize_options(), options, {.group = group});
  }

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
