// metal-marlin completion: scripts for the shells, made from the command tree.
#include <fmt/format.h>

#include <memory>

#include <nlohmann/json.hpp>

#include "arguments/values.h"
#include "console/console.h"
#include "help.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

std::vector<std::string> command_names(const Application& application) {
  std::vector<std::string> names;
  for (const auto& command : application.commands()) names.push_back(command->name());
  return names;
}

std::vector<std::string> option_names(const Command& command) {
  std::vector<std::string> names;
  for (const auto& option : command.options())
    if (!option.positional) names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

// The options of a command; what `help` explains is known only when every command is there.
std::vector<OptionInfo> options_of(const Application& application, const Command& command) {
  std::vector<OptionInfo> options(command.options().begin(), command.options().end());
  for (auto& option : options) {
    if (command.name() != "help" || !option.positional) continue;
    option.completes = Completes::kChoices;
    option.choices = command_names(application);
  }
  return options;
}

// Text inside single quotes of a POSIX shell; fish escapes differently.
std::string shell_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string fish_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += (c == '\'' || c == '\\') ? std::string("\\") + c : std::string(1, c);
  return result + "'";
}

// What _arguments reads in [...] and after ':': colons and brackets are its own.
std::string zsh_escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == ':' || c == '[' || c == ']') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_value(const OptionInfo& option) {
  switch (option.completes) {
    case Completes::kFiles:
      return zsh_escaped(option.value) + ":_files";
    case Completes::kFolders:
      return zsh_escaped(option.value) + ":_files -/";
    case Completes::kChoices:
      if (option.list) return "value:_values -s , value " + join(option.choices, " ");
      return "value:(" + join(option.choices, " ") + ")";
    case Completes::kNothing:
      break;
  }
  return zsh_escaped(option.value) + ": ";
}

}  // namespace

std::string bash_completion(const Application& application) {
  std::string text = fmt::format(
      "# bash completion of {0}; load it with: source <({0} completion bash)\n"
      "_metal_marlin() {{\n"
      "  local current=\"${{COMP_WORDS[COMP_CWORD]}}\" previous=\"${{COMP_WORDS[COMP_CWORD-1]}}\"\n"
      "  local command= word\n"
      "  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n"
      "    if [[ \"$word\" != -* ]]; then command=\"$word\"; break; fi\n"
      "  done\n"
      "  COMPREPLY=()\n"
      "  if [[ -z \"$command\" ]]; then\n"
      "    COMPREPLY=($(compgen -W \"{1} --help --version\" -- \"$current\"))\n"
      "    return\n"
      "  fi\n"
      "  case \"$command\" in\n",
      application.name(), join(command_names(application), " "));
  for (const auto& command : application.commands()) {
    text += fmt::format("    {})\n      case \"$previous\" in\n", command->name());
    std::vector<std::string> positional_choices;
    for (const auto& option : options_of(application, *command)) {
      if (option.positional) {
        positional_choices.insert(positional_choices.end(), option.choices.begin(), option.choices.end());
        continue;
      }
      if (option.value.empty()) continue;
      const std::string names = join(option.names, "|");
      switch (option.completes) {
        case Completes::kChoices:
          if (option.list)
            text += fmt::format(
                "        {}) local before=\"\"; [[ \"$current\" == *,* ]] && before=\"${{current%,*}},\"\n"
                "          compopt -o nospace; COMPREPLY=($(compgen -P \"$before\" -W \"{}\" -- "
                "\"${{current##*,}}\")); return ;;\n",
                names, join(option.choices, " "));
          else
            text += fmt::format("        {}) COMPREPLY=($(compgen -W \"{}\" -- \"$current\")); return ;;\n", names,
                                join(option.choices, " "));
          break;
        case Completes::kFiles:
          text += fmt::format(
              "        {}) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n", names);
          break;
        case Completes::kFolders:
          text += fmt::format(
              "        {}) compopt -o filenames; COMPREPLY=($(compgen -d -- \"$current\")); return ;;\n", names);
          break;
        case Completes::kNothing:
          text += fmt::format("        {}) return ;;\n", names);
          break;
      }
    }
    text += fmt::format(
        "      esac\n"
        "      if [[ \"$current\" == -* ]]; then\n"
        "        COMPREPLY=($(compgen -W \"{}\" -- \"$current\"))\n"
        "        return\n"
        "      fi\n",
        join(option_names(*command), " "));
    if (!positional_choices.empty())
      text += fmt::format("      COMPREPLY=($(compgen -W \"{}\" -- \"$current\"))\n      return\n",
                          join(positional_choices, " "));
    text += "      ;;\n";
  }
  return text +
         "  esac\n"
         "  compopt -o filenames\n"
         "  COMPREPLY=($(compgen -f -- \"$current\"))\n"
         "}\n"
         "complete -F _metal_marlin metal-marlin\n";
}

std::string zsh_completion(const Application& application) {
  std::string text = fmt::format(
      "#compdef {0}\n"
      "# zsh completion of {0}; put it as _{0} into a folder of $fpath.\n"
      "_{0}() {{\n"
      "  local -a commands\n"
      "  commands=(\n",
      application.name());
  for (const auto& command : application.commands())
    text += fmt::format("    {}\n", shell_quoted(command->name() + ":" + zsh_escaped(command->summary())));
  text +=
      "  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  local command=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $command in\n";
  for (const auto& command : application.commands()) {
    text += fmt::format("    {})\n      _arguments", command->name());
    int position = 0;
    for (const auto& option : options_of(application, *command)) {
      if (option.positional) {
        text += fmt::format(" \\\n        {}", shell_quoted(fmt::format("{}:{}", ++position, zsh_value(option))));
        continue;
      }
      for (const auto& name : option.names) {
        std::string spec = (option.repeatable ? "*" : "") + name + "[" + zsh_escaped(option.help) + "]";
        if (!option.value.empty()) spec += ":" + zsh_value(option);
        text += fmt::format(" \\\n        {}", shell_quoted(spec));
      }
    }
    text += "\n      ;;\n";
  }
  return text + fmt::format("  esac\n}}\n_{} \"$@\"\n", application.name());
}

std::string fish_completion(const Application& application) {
  const std::string& program = application.name();
  std::string text = fmt::format("# fish completion of {0}; load it with: {0} completion fish | source\n", program);
  for (const auto& command : application.commands())
    text += fmt::format("complete -c {} -f -n __fish_use_subcommand -a {} -d {}\n", program, command->name(),
                        fish_quoted(command->summary()));
  for (const auto& command : application.commands()) {
    const std::string condition = fmt::format("-n '__fish_seen_subcommand_from {}'", command->name());
    for (const auto& option : options_of(application, *command)) {
      std::string line = fmt::format("complete -c {} {}", program, condition);
      if (!option.positional) {
        for (const auto& name : option.names)
          line += name[1] == '-' ? " -l " + name.substr(2) : " -s " + name.substr(1);
        if (!option.value.empty()) line += " -r";
      }
      switch (option.completes) {
        case Completes::kChoices:
          line += " -f -a " + fish_quoted(join(option.choices, " "));
          break;
        case Completes::kFiles:
          line += " -F";
          break;
        case Completes::kFolders:
          line += " -f -a '(__fish_complete_directories)'";
          break;
        case Completes::kNothing:
          line += " -f";
          break;
      }
      text += line + " -d " + fish_quoted(option.help) + "\n";
    }
  }
  return text;
}

void add_completion(Application& application) {
  struct State {
    std::string shell;
    OutputOptions console;
  };
  auto& command = application.add_command("completion", "Print the completion script of a shell");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.choice("SHELL", state->shell, {"bash", "zsh", "fish"}, "bash, zsh or fish", true);
  add_output_options(command, state->console);
  command.example("Complete in this bash", "source <(metal-marlin completion bash)");
  command.example("Complete in every fish",
                  "metal-marlin completion fish > ~/.config/fish/completions/metal-marlin.fish");
  command.action([state, &application] {
    Console console(state->console);
    const std::string script = state->shell == "bash"  ? bash_completion(application)
                               : state->shell == "zsh" ? zsh_completion(application)
                                                       : fish_completion(application);
    const nlohmann::ordered_json json = {{"shell", state->shell}, {"script", script}};
    console.result(console.json() ? json.dump(2) : script);
    return 0;
  });
}

}  // namespace metal_marlin::cli
