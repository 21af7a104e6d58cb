// metal-marlin compare: the error of one checkpoint's weights against another's.
#include <metal_marlin/inspect.h>

#include <memory>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "console/console.h"
#include "subcommands.h"

namespace metal_marlin::cli {

void add_compare(Application& application) {
  struct State {
    std::string a;
    std::string b;
    MachineOptions machine;
    OutputOptions console;
  };
  auto& command =
      application.add_command("compare", "Show the error of B's weights against A's, per tensor and per layer");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("A", state->a, std::string("The reference: ") + kModelHelp, Completes::kFiles);
  command.positional("B", state->b, "The other model, of the same family and shapes", Completes::kFiles);
  add_options(command, machine_options(), state->machine, {.keys = {"threads"}});
  add_output_options(command, state->console);
  command.example("A quantized model against its original", "metal-marlin compare MODEL OUT");
  command.action([state] {
    Console console(state->console);
    const Comparison comparison = compare_models(state->a, state->b, state->machine);
    console.result(console.json() ? comparison.to_json() : render_comparison(comparison));
    return 0;
  });
}

}  // namespace metal_marlin::cli
