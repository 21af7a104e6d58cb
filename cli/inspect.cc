// metal-marlin inspect: what is in a checkpoint.
#include <metal_marlin/inspect.h>

#include <memory>

#include "console.h"
#include "options.h"
#include "subcommands.h"

namespace metal_marlin::cli {

void add_inspect(Application& application) {
  struct State {
    std::string model;
    bool tensors = false;
    OutputOptions console;
  };
  auto& command = application.add_command("inspect", "Show what is in a checkpoint");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.flag("--tensors", state->tensors, "List every tensor with its shape, storage, bytes and file");
  add_output_options(command, state->console);
  command.example("Family, formats, bits per weight", "metal-marlin inspect MODEL");
  command.example("Every tensor, for a script", "metal-marlin inspect MODEL --tensors --json");
  command.action([state] {
    Console console(state->console);
    const std::string json = inspect_model(state->model, state->tensors);
    console.result(console.json() ? json : render_inspection(json));
    return 0;
  });
}

}  // namespace metal_marlin::cli
