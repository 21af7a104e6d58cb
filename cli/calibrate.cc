// metal-marlin calibrate: activation statistics only.
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <fmt/format.h>

#include <memory>

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
  std::string output;
  CalibrationOptions calibration;
  MachineOptions machine;
  OutputOptions console;
  CalibrateExtras extras;
};

int run(const Command& command, State& state) {
  Console console(state.console);
  const StopOnSignal signals;
  CalibrateResult result;
  try {
    result = calibrate_model(state.model, state.output, state.calibration, state.machine, state.extras.gram,
                             state.extras.keep_activations, console.observer(), state.extras.overwrite);
  } catch (const Interrupted&) {
    console.stopped("nothing was written: run the same command again");
    return kExitInterrupted;
  }
  if (console.json()) {
    console.result(result.to_json());
  } else if (console.quiet()) {
    console.result(state.output);
  } else {
    console.summary(fmt::format("{}: statistics of {} in {}, made in {}", state.output, counted(result.tokens, "token"),
                                counted(result.sequences, "sequence"), format_seconds(result.seconds)));
  }
  return 0;
}

}  // namespace

void add_calibrate(Application& application) {
  auto& command = application.add_command(
      "calibrate", "Collect a model's activation statistics into an .npz, or an imatrix for llama.cpp");
  auto state = std::make_shared<State>();
  command.group("Input and result");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.text("-o,--output", state->output, "STATS.npz",
               "File to write; 'quantize --calibration STATS.npz' reads it; X.gguf: llama.cpp's imatrix",
               Completes::kFiles, true);
  add_options(command, calibrate_options(), state->extras);
  add_options(command, calibration_options(), state->calibration);
  add_options(command, machine_options(), state->machine);
  add_output_options(command, state->console);
  command.example("Statistics on a text, used by two quantizations",
                  "metal-marlin calibrate MODEL -o stats.npz --calibration train.txt");
  command.example("Use them", "metal-marlin quantize MODEL -o OUT --calibration stats.npz");
  command.action([state, &command] { return run(command, *state); });
}

}  // namespace metal_marlin::cli
