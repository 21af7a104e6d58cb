// metal-marlin evaluate: perplexity, and against a reference KL divergence and agreement.
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>

#include <fmt/format.h>

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
  EvaluateExtras extras;
  EvaluationOptions evaluation;
  MachineOptions machine;
  ComputeOptions compute;
  OutputOptions console;
};

std::string table(const EvaluationRecord& result) {
  std::string text;
  const auto row = [&text](const std::string& name, const std::string& value) {
    text += fmt::format("{:<24}{}\n", name, value);
  };
  row("positions", std::to_string(result.positions));
  row("perplexity", fmt::format("{:.4f}", result.perplexity.quantized.value()));
  if (const DivergenceRecord& kl = result.kl_divergence; kl.mean) {
    row("reference perplexity", fmt::format("{:.4f}", result.perplexity.reference.value()));
    row("KL divergence, mean", fmt::format("{:.5f} +- {:.5f}", *kl.mean, kl.standard_error.value()));
    row("KL divergence, p99", fmt::format("{:.5f}", kl.p99.value()));
    row("same top token", fmt::format("{:.2f} %", 100 * result.top1_agreement.value()));
  }
  row("bits per weight", fmt::format("{:.3f}", result.bits_per_weight));
  row("size of the weights", format_file_size(static_cast<uint64_t>(result.bytes)));
  return text;
}

int run(State& state) {
  Console console(state.console);
  const StopOnSignal signals;
  Evaluation result;
  try {
    result = evaluate_model(state.model, state.extras.reference, state.evaluation, state.machine, console.observer(),
                            state.compute);
  } catch (const Interrupted&) {
    console.stopped("an evaluation cannot be continued: run the same command again");
    return kExitInterrupted;
  }
  console.result(console.json() ? result.to_json() : table(result.model));
  return 0;
}

}  // namespace

void add_evaluate(Application& application) {
  auto& command =
      application.add_command("evaluate", "Measure a model's perplexity, and its distance from a reference");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  add_options(command, evaluation_options(), state->evaluation, {.keys = {"text"}, .heading = "Input"});
  add_options(command, evaluate_options(), state->extras);
  add_options(command, evaluation_options(), state->evaluation, {.keys = {"chunks", "context", "bos"}});
  add_options(command, machine_options(), state->machine);
  add_options(command, compute_options(), state->compute, {.keys = {"compute", "head"}});
  add_output_options(command, state->console);
  command.example("Perplexity of a model", "metal-marlin evaluate MODEL --text test.txt");
  command.example("How far a quantized model is from its original",
                  "metal-marlin evaluate OUT --reference MODEL --text test.txt --json");
  command.action([state] { return run(*state); });
}

}  // namespace metal_marlin::cli
