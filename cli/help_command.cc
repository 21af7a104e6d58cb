// metal-marlin help: the texts of --help, and the tree of commands as JSON.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "arguments/values.h"
#include "console/console.h"
#include "help.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

using nlohmann::ordered_json;

ordered_json command_json(const Command& command) {
  ordered_json options = ordered_json::array();
  for (const auto& option : command.options()) {
    ordered_json entry = {{"names", option.names},
                          {"help", option.help},
                          {"group", option.group},
                          {"required", option.required},
                          {"positional", option.positional}};
    if (!option.value.empty()) entry["value"] = option.value;
    if (!option.default_text.empty()) entry["default"] = option.default_text;
    if (!option.choices.empty()) entry["choices"] = option.choices;
    if (option.repeatable) entry["repeatable"] = true;
    if (option.advanced) entry["advanced"] = true;
    options.push_back(std::move(entry));
  }
  ordered_json examples = ordered_json::array();
  for (const auto& example : command.examples())
    examples.push_back({{"what", example.what}, {"command", example.command}});
  return {{"name", command.name()},
          {"summary", command.summary()},
          {"usage", usage_line(command)},
          {"options", options},
          {"examples", examples}};
}

}  // namespace

std::string commands_json(const Application& application) {
  ordered_json commands = ordered_json::array();
  for (const auto& command : application.commands()) commands.push_back(command_json(*command));
  ordered_json codes = ordered_json::object();
  for (const auto& [code, meaning] : exit_codes()) codes[std::to_string(code)] = meaning;
  const ordered_json tree = {{"name", application.name()},
                             {"version", application.version()},
                             {"summary", application.summary()},
                             {"commands", commands},
                             {"exit_codes", codes}};
  return tree.dump(2);
}

void add_help(Application& application) {
  struct State {
    std::string command;
    OutputOptions console;
  };
  auto& command = application.add_command("help", "Explain the commands, or one of them");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.optional_positional("COMMAND", state->command, "The command to explain; without it all are listed");
  add_output_options(command, state->console);
  command.example("Options of quantize", "metal-marlin help quantize");
  command.action([state, &application] {
    Console console(state->console);
    const Command* chosen = application.find(state->command);
    if (!state->command.empty() && chosen == nullptr) {
      std::vector<std::string> names;
      for (const auto& known : application.commands()) names.push_back(known->name());
      throw UsageError{fmt::format("there is no command '{}'; the commands are {}", state->command, join(names, ", "))};
    }
    if (console.json()) {
      console.result(chosen == nullptr ? commands_json(application) : command_json(*chosen).dump(2));
    } else {
      console.result(chosen == nullptr ? application_help(application) : command_help(application, *chosen, false));
    }
    return 0;
  });
}

}  // namespace metal_marlin::cli
