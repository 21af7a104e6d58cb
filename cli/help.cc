#include "help.h"

#include <fmt/format.h>

#include "arguments/values.h"

namespace metal_marlin::cli {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kHelpColumn = 34;

// A label and its wrapped explanation in two columns.
std::string two_columns(const std::string& label, const std::string& text, size_t column) {
  std::string result = "  " + label;
  if (result.size() + 2 > column) {
    result += "\n" + std::string(column, ' ');
  } else {
    result.resize(column, ' ');
  }
  const auto lines = wrap(text, kWidth - column);
  for (size_t i = 0; i < lines.size(); ++i) result += (i == 0 ? "" : std::string(column, ' ')) + lines[i] + "\n";
  return result;
}

std::string explanation(const OptionInfo& option) {
  std::string text = option.help;
  if (option.required && !option.positional) text += " (required)";
  if (!option.default_text.empty()) text += fmt::format(" (default: {})", option.default_text);
  if (option.repeatable) text += " (may be repeated)";
  return text;
}

}  // namespace

std::vector<std::string> wrap(const std::string& text, size_t width) {
  std::vector<std::string> lines{""};
  size_t start = 0;
  while (start < text.size()) {
    const size_t space = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, space - start);
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
    start = space + 1;
  }
  return lines;
}

std::string option_label(const OptionInfo& option) {
  std::string label = join(option.names, ", ");
  if (!option.value.empty() && !option.positional) label += " " + option.value;
  return label;
}

std::string usage_line(const Command& command) {
  std::string line;
  for (const auto& option : command.options())
    if (option.positional) line += option.required ? option.names[0] + " " : "[" + option.names[0] + "] ";
  for (const auto& option : command.options())
    if (option.required && !option.positional) line += fmt::format("{} {} ", option.names[0], option.value);
  return line + "[options]";
}

const std::vector<std::pair<int, std::string>>& exit_codes() {
  static const std::vector<std::pair<int, std::string>> codes = {
      {0, "done"},
      {1, "the input or the machine is at fault; the message says what to do"},
      {2, "the command line is wrong"},
      {4,
       "the work is done and the answer is no: quantize's result misses the limit given by --max-kl (it is written all "
       "the same), check finds that the engine does not load the checkpoint, reads it wrongly, or that it is not "
       "known; diff finds a difference"},
      {130, "stopped by a signal; what is finished is kept"}};
  return codes;
}

std::string application_help(const Application& application) {
  std::string text =
      fmt::format("{}\n\nUsage: {} COMMAND [options]\n\nCommands:\n", application.summary(), application.name());
  for (const auto& command : application.commands()) text += two_columns(command->name(), command->summary(), 16);
  text += fmt::format(
      "\nMODEL is a folder in Hugging Face layout, a .safetensors or .gguf file, or org/name in the Hugging Face "
      "cache.\n"
      "'{0} help COMMAND' or '{0} COMMAND --help' shows the common options of a command, '{0} COMMAND --help-all' all "
      "of "
      "them, '{0} --version' the version.\n\nExit "
      "codes:\n",
      application.name());
  for (const auto& [code, meaning] : exit_codes()) text += two_columns(std::to_string(code), meaning, 16);
  return text;
}

std::string command_help(const Application& application, const Command& command, bool all) {
  std::string text = fmt::format("{}\n\nUsage: {} {} {}\n", command.summary(), application.name(), command.name(),
                                 usage_line(command));
  std::string group;
  size_t hidden = 0;
  for (const auto& option : command.options()) {
    if (option.advanced && !all) {
      ++hidden;
      continue;
    }
    if (option.group != group) text += fmt::format("\n{}:\n", option.group);
    group = option.group;
    text += two_columns(option_label(option), explanation(option), kHelpColumn);
  }
  if (hidden > 0) {
    text += fmt::format("\n{} more options, for few users: '{} {} --help-all' shows them.\n", hidden,
                        application.name(), command.name());
  }
  if (!command.examples().empty()) text += "\nExamples:\n";
  for (const auto& example : command.examples()) text += fmt::format("  {}:\n    {}\n", example.what, example.command);
  return text;
}

}  // namespace metal_marlin::cli
