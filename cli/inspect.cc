// metal-marlin inspect: what is in a checkpoint, and what quantizing its linears would cost.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <array>
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
  bool tensors = false;
  bool sensitivity = false;
  QuantizeOptions options;
  OutputOptions console;
};

// An option that would do nothing is a mistake.
void check_given(const Command& command, const State& state) {
  constexpr std::array kOwn = {"tensors", "sensitivity", "json", "quiet", "log-level"};
  if (state.sensitivity) return;
  for (const std::string& name : command.given()) {
    if (std::find(kOwn.begin(), kOwn.end(), name) == kOwn.end())
      throw UsageError{fmt::format("--{} is of no use without --sensitivity", name)};
  }
}

int run(const Command& command, State& state) {
  check_given(command, state);
  Console console(state.console);
  Inspection inspection = inspect_model(state.model, state.tensors);
  if (state.sensitivity) {
    QuantizeOptions& o = state.options;
    o.formats = {"native"};
    const StopOnSignal signals;
    try {
      inspection.sensitivity = sensitivity_of_model(state.model, o, console.observer());
    } catch (const Interrupted&) {
      console.stopped("run the same command again");
      return kExitInterrupted;
    }
  }
  console.result(console.json() ? inspection.to_json() : render_inspection(inspection));
  return 0;
}

}  // namespace

void add_inspect(Application& application) {
  auto& command = application.add_command("inspect", "Show what is in a checkpoint, and what quantizing it would cost");
  auto state = std::make_shared<State>();
  QuantizeOptions& options = state->options;
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.flag("--tensors", state->tensors, "List every tensor with its shape, storage, bytes and file");
  command.group("Sensitivity");
  command.flag(
      "--sensitivity", state->sensitivity,
      "Measure what quantizing to 4 bits costs: the KL divergence of the model in which one set of linears with "
      "a common input is quantized, ranked; the options below are for this");
  add_options(
      command, quantize_options(), options,
      {.keys = {"method", "scheme", "group_size", "sensitivity_tokens"}, .heading = "Sensitivity", .advanced = true});
  add_options(command, calibration_options(), options.calibration);
  add_options(command, machine_options(), options.machine);
  add_output_options(command, state->console);
  command.example("Family, formats, bits per weight", "metal-marlin inspect MODEL");
  command.example("Every tensor, for a script", "metal-marlin inspect MODEL --tensors --json");
  command.example("Which linears suffer most from 4 bits",
                  "metal-marlin inspect MODEL --sensitivity --calibration train.txt --samples 32");
  command.action([state, &command] { return run(command, *state); });
}

}  // namespace metal_marlin::cli
