// metal-marlin bench: how fast a model reads a prompt and generates.
#include <metal_marlin/bench.h>
#include <metal_marlin/error.h>

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "arguments/values.h"
#include "console/console.h"
#include "console/signals.h"
#include "core/counted.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  BenchOptions bench;
  MachineOptions machine;
  ComputeOptions compute;
  OutputOptions console;
};

std::string table(const BenchResult& result) {
  std::string text;
  const auto row = [&text](const std::string& name, const std::string& value) {
    text += fmt::format("{:<24} {}\n", name, value);
  };
  const auto rate = [&](const std::string& name, const BenchRate& r) {
    const BenchSpeed& speed = r.tokens_per_second;
    row(fmt::format("{}, {}", name, counted(r.tokens, "token")),
        fmt::format("{:.1f} tokens/s ({:.1f} to {:.1f})", speed.median, speed.lowest, speed.highest));
  };
  row("processor", result.cpu);
  row("kernels", fmt::format("{}, linears in {}, head in {} bits, keys and values in {}", result.isa, result.compute,
                             result.head, result.kv));
  if (result.depth > 0) row("depth", counted(result.depth, "token"));
  row("threads", std::to_string(result.threads));
  row("load", fmt::format("{:.2f} s", result.load_seconds));
  row("memory", format_file_size(result.resident_bytes));
  if (result.prompt) rate("prompt", *result.prompt);
  for (const BenchBatch& batch : result.batches) {
    rate(batch.sequences == 1 ? "generation" : fmt::format("generation of {}", batch.sequences), batch);
  }
  return text;
}

int run(State& state) {
  Console console(state.console);
  const StopOnSignal signals;
  try {
    const BenchResult result = bench_model(state.model, state.bench, state.machine, console.observer(), state.compute);
    console.result(console.json() ? result.to_json() : table(result));
  } catch (const Interrupted&) {
    console.stopped("run the same command again");
    return kExitInterrupted;
  }
  return 0;
}

}  // namespace

void add_bench(Application& application) {
  auto& command = application.add_command("bench", "Measure how fast a model reads a prompt and generates");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  add_options(command, bench_options(), state->bench);
  add_options(command, machine_options(), state->machine, {.keys = {"threads"}});
  add_options(command, compute_options(), state->compute);
  add_output_options(command, state->console);
  command.example("How fast a model is on one core", "metal-marlin bench MODEL --threads 1");
  command.action([state] { return run(*state); });
}

}  // namespace metal_marlin::cli
