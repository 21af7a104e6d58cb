// metal-marlin bench: how fast a model reads a prompt and generates.
#include <metal_marlin/bench.h>
#include <metal_marlin/error.h>

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "compute_options.h"
#include "console.h"
#include "core/counted.h"
#include "options.h"
#include "signals.h"
#include "subcommands.h"
#include "values.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  BenchOptions bench;
  std::vector<double> batch = {1};
  MachineOptions machine;
  ComputeOptions compute;
  SharedTexts texts;
  OutputOptions console;
};

std::string table(const BenchResult& result) {
  std::string text;
  const auto row = [&text](const std::string& name, const std::string& value) {
    text += fmt::format("{:<24}{}\n", name, value);
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
  state.machine.threads = static_cast<int>(state.texts.threads);
  state.bench.batch.clear();
  for (const double n : state.batch) {
    if (n != std::floor(n)) throw UsageError{fmt::format("--batch: expected whole numbers of sequences, found {}", n)};
    state.bench.batch.push_back(static_cast<int64_t>(n));
  }
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
  command.group("Measurement");
  command.integer("--prompt", state->bench.prompt, 0, 1 << 20, "Tokens of the prompt; 0: not measured");
  command.integer("--generate", state->bench.generate, 0, 1 << 20, "Tokens to generate; 0: not measured");
  command.integer("--repeat", state->bench.repeat, 1, 1000,
                  "Measurements of each; the median is shown, with the lowest and the highest");
  command.integer("--depth", state->bench.depth, 0, 1 << 20, "Tokens in the cache before each measurement");
  command.reals("--batch", state->batch, 1, 1024,
                "Sequences that are generated beside each other; each number is measured", "1");
  add_machine_options(command, state->machine, state->texts, false, false);
  add_compute_options(command, state->compute, true);
  add_output_options(command, state->console);
  command.example("How fast a model is on one core", "metal-marlin bench MODEL --threads 1");
  command.action([state] { return run(*state); });
}

}  // namespace metal_marlin::cli
