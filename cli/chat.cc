// metal-marlin chat: a conversation on the terminal.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "console.h"
#include "core/files/text_file.h"
#include "options.h"
#include "platform/terminal.h"
#include "signals.h"
#include "subcommands.h"
#include "table_options.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string system;
  GenerateOptions options;
  SchemaOptions schema;
  MachineOptions machine;
  ComputeOptions compute;
  OutputOptions console;
  bool stats = false;
};

// Reads one line of the user, whichever line ends it has; false at the end of the input or on a signal. `first`: an
// editor may have put a byte order mark before it, which is no part of what the user says.
bool read_line(bool interactive, bool first, std::string& line) {
  if (interactive) {
    print_error("> ");
  }
  if (!std::getline(std::cin, line)) return false;
  if (line.ends_with('\r')) line.pop_back();
  if (first) line = without_byte_order_mark(std::move(line));
  return true;
}

int run(const Command& command, State& state) {
  state.options.given = command.given();
  set_schema(command, state.schema, state.options);
  Console console(state.console);
  state.options.on_warning = console.warning_once();
  TextGenerator generator(state.model, state.machine, true, state.compute);
  const StopOnSignal signals;
  const bool interactive = input_is_terminal() && !console.quiet();
  if (interactive) print_error("Ctrl-D or /exit leaves, /clear begins anew, Ctrl-C stops an answer.\n");
  std::vector<std::pair<std::string, std::string>> messages;
  const auto begin = [&] {
    messages.clear();
    if (!state.system.empty()) messages.emplace_back("system", state.system);
  };
  begin();
  std::string line;
  bool refused = false;
  for (bool first = true; read_line(interactive, first, line);) {
    first = false;
    if (line == "/exit") break;
    if (line == "/clear") {
      begin();
      continue;
    }
    if (line.empty()) continue;
    messages.emplace_back("user", line);
    GenerateStats stats;
    std::string answer;
    try {
      answer = generator.chat(messages, state.options, console.streaming(), &stats);
    } catch (const ArgumentError& e) {
      // The line, not the model, is at fault: a text that is too long, or one that the template refuses.
      console.error(
          fmt::format("{}; the line is left out, and the conversation goes on (/clear begins anew)", e.what()));
      messages.pop_back();
      refused = true;
      continue;
    }
    console.result(console.json() ? stats_json(answer, stats) : "");
    if (state.stats) print_error(stats_text(stats) + "\n");
    messages.emplace_back("assistant", answer);
    if (StopOnSignal::requested()) {
      if (!interactive) return kExitInterrupted;
      StopOnSignal::rearm();
    }
  }
  if (interactive) print_error("\n");
  if (StopOnSignal::requested()) return kExitInterrupted;
  return refused && !interactive ? kExitFault : 0;
}

}  // namespace

void add_chat(Application& application) {
  auto& command = application.add_command("chat", "Talk with a model that has a chat template");
  auto state = std::make_shared<State>();
  state->options.predict = -1;
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.text("--system", state->system, "TEXT", "System message that opens the conversation");
  add_options(command, generate_options(), state->options);
  add_schema_options(command, state->schema);
  add_options(command, machine_options(), state->machine, {.keys = {"threads"}});
  add_options(command, compute_options(), state->compute);
  command.group("Output");
  command.flag("--stats", state->stats, "Print tokens per second on stderr after each answer");
  add_output_options(command, state->console);
  command.example("Talk", "metal-marlin chat MODEL");
  command.example("One question from a script, the answer as JSON",
                  "echo 'What is 2+2?' | metal-marlin chat MODEL --temp 0 --json");
  command.example("Answers as JSON that fits a schema", "metal-marlin chat MODEL --json-schema-file answer.json");
  command.action([state, &command] { return run(command, *state); });
}

}  // namespace metal_marlin::cli
