// metal-marlin diff: in what two checkpoints of one model differ.
#include <metal_marlin/diff.h>

#include <memory>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "console/console.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

constexpr int64_t kShown = 50;

}  // namespace

void add_diff(Application& application) {
  struct State {
    std::string a;
    std::string b;
    int64_t limit = kShown;
    DiffOptions options;
    OutputOptions console;
  };
  auto& command =
      application.add_command("diff", "Name the tensors in which two quantizations of one model differ, and how");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("A", state->a, std::string("One model: ") + kModelHelp, Completes::kFiles);
  command.positional("B", state->b, "The other, of the same family and shapes", Completes::kFiles);
  command.group("Result");
  command.integer("--limit", state->limit, 0, 1000000, "How many tensors each list names; 0: all",
                  "50; all with --json");
  add_options(command, machine_options(), state->options.machine, {.keys = {"threads"}});
  add_output_options(command, state->console);
  command.example("What another option changed", "metal-marlin diff OUT1 OUT2");
  command.action([state, &command] {
    Console console(state->console);
    state->options.limit = console.json() && !command.was_given("limit") ? 0 : state->limit;
    const DiffResult result = diff_models(state->a, state->b, state->options);
    console.result(console.json() ? result.to_json() : render_diff(result));
    return result.equal ? 0 : kExitMissedGate;
  });
}

}  // namespace metal_marlin::cli
