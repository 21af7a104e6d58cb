#include "command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <vector>

#include "arguments/values.h"
#include "console/console.h"
#include "help.h"

namespace metal_marlin::cli {

struct Command::Parser {
  CLI::App* app = nullptr;
};

struct Application::Parser {
  CLI::App app;
};

Command::Command(std::string name, std::string summary, std::unique_ptr<Parser> parser)
    : name_(std::move(name)), summary_(std::move(summary)), parser_(std::move(parser)) {}
Command::~Command() = default;

OptionInfo& Command::add(const std::string& names, const OptionInfo& info) {
  OptionInfo& option = options_.emplace_back(info);
  const size_t aliases = std::min(names.find(';'), names.size());
  option.names = split(names.substr(0, aliases), ',');
  option.label = option.names.back();
  if (aliases < names.size()) {
    for (const auto& alias : split(names.substr(aliases + 1), ',')) option.names.push_back(alias);
  }
  group_ = info.group;
  advanced_ = info.advanced;
  return option;
}

OptionInfo& Command::add(const std::string& names, const std::string& value_name, const std::string& help,
                         const std::string& default_text) {
  OptionInfo info;
  info.value = value_name;
  info.default_text = default_text;
  info.help = help;
  info.group = group_;
  info.advanced = advanced_;
  return add(names, info);
}

void Command::value(const std::string& names, const OptionInfo& info, std::function<void(const std::string&)> accept) {
  parse_value(add(names, info), std::move(accept));
}

void Command::flag(const std::string& names, const OptionInfo& info, std::function<void()> set) {
  const OptionInfo& option = add(names, info);
  const CLI::Option* flag = parser_->app->add_flag(join(option.names, ","));
  flags_.emplace_back(option.label.substr(2), [flag, set = std::move(set)] {
    if (flag->count() == 0) return false;
    set();
    return true;
  });
}

void Command::toggle(const std::string& name, const OptionInfo& info, std::function<void(bool)> set) {
  add(fmt::format("--{0},--no-{0}", name), info).label = "--" + name;
  const auto value = std::make_shared<bool>(false);
  const CLI::Option* flag = parser_->app->add_flag(fmt::format("--{0},!--no-{0}", name), *value);
  flags_.emplace_back(name, [flag, value, set = std::move(set)] {
    if (flag->count() == 0) return false;
    set(*value);
    return true;
  });
}

void Command::parse_value(const OptionInfo& option, std::function<void(const std::string&)> accept) {
  const std::string names = option.positional ? option.names[0] : join(option.names, ",");
  const std::string label = option.label;
  const auto note = [this, label, named = !option.positional] {
    if (named) given_.push_back(label.substr(label.find_first_not_of('-')));
  };
  const bool last = !option.repeatable;
  auto* added =
      parser_->app->add_option(names, [accept = std::move(accept), label, note, last](const CLI::results_t& texts) {
        note();
        for (size_t i = last ? texts.size() - 1 : 0; i < texts.size(); ++i) {
          try {
            accept(texts[i]);
          } catch (const UsageError& error) {
            throw UsageError{label + ": " + error.what()};
          }
        }
        return true;
      });
  added->required(option.required);
  // One value each time, so that MODEL may follow.
  if (!option.positional) added->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->expected(1);
}

void Command::positional(const std::string& name, std::string& value, const std::string& help, Completes completes) {
  OptionInfo& option = add(name, name, help, {});
  option.positional = true;
  option.required = true;
  option.completes = completes;
  parse_value(option, [&value](const std::string& text) { value = text; });
}

void Command::optional_positional(const std::string& name, std::string& value, const std::string& help) {
  OptionInfo& option = add(name, name, help, {});
  option.positional = true;
  parse_value(option, [&value](const std::string& text) { value = text; });
}

bool Command::was_given(const std::string& name) const {
  return std::find(given_.begin(), given_.end(), name) != given_.end();
}

void Command::text(const std::string& names, std::string& value, const std::string& value_name, const std::string& help,
                   Completes completes, bool required, const std::string& default_text) {
  OptionInfo& option = add(names, value_name, help, default_text.empty() ? value : default_text);
  option.completes = completes;
  option.required = required;
  parse_value(option, [&value](const std::string& text) { value = text; });
}

void Command::choice(const std::string& names, std::string& value, const std::vector<std::string>& choices,
                     const std::string& help, bool positional) {
  OptionInfo& option = add(names, join(choices, "|"), help, value);
  option.completes = Completes::kChoices;
  option.choices = choices;
  option.positional = option.required = positional;
  parse_value(option, [&value, choices](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end())
      throw UsageError{fmt::format("expected one of {}, found '{}'", join(choices, ", "), text)};
    value = text;
  });
}

void Command::integer(const std::string& names, int64_t& value, int64_t least, int64_t most, const std::string& help,
                      const std::string& default_text) {
  const OptionInfo& option = add(names, "N", help, default_text.empty() ? std::to_string(value) : default_text);
  parse_value(option, [&value, least, most](const std::string& text) { value = parse_integer(text, least, most); });
}

void Command::flag(const std::string& names, bool& value, const std::string& help) {
  OptionInfo info;
  info.help = help;
  info.group = group_;
  info.advanced = advanced_;
  flag(names, info, [&value] { value = true; });
}

void Command::note_flags() {
  for (const auto& [name, was_there] : flags_) {
    if (was_there()) given_.push_back(name);
  }
}

Application::Application(std::string name, std::string summary, std::string version)
    : name_(std::move(name)),
      summary_(std::move(summary)),
      version_(std::move(version)),
      parser_(std::make_unique<Parser>()) {
  parser_->app.name(name_);
  parser_->app.require_subcommand(1);
}
Application::~Application() = default;

Command& Application::add_command(const std::string& name, const std::string& summary) {
  auto parser = std::make_unique<Command::Parser>();
  parser->app = parser_->app.add_subcommand(name, summary);
  commands_.push_back(std::make_unique<Command>(name, summary, std::move(parser)));
  return *commands_.back();
}

Command* Application::find(const std::string& name) const {
  for (const auto& command : commands_)
    if (command->name() == name) return command.get();
  return nullptr;
}

namespace {

// How many words at the start are options that every command has.
size_t leading_flags(const std::vector<std::string>& words) {
  size_t count = 0;
  while (count < words.size()) {
    const std::string& word = words[count];
    if (word == "--log-level") {
      count += 2;
    } else if (word == "--json" || word == "--quiet" || word == "-q" || word.starts_with("--log-level=")) {
      ++count;
    } else {
      break;
    }
  }
  return std::min(count, words.size());
}

}  // namespace

namespace {

// The command line for the report, which is passed on: of absolute paths only the last part.
std::string shown_line(const std::string& program, int argc, char** argv) {
  std::string line = program;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    const size_t start = word.starts_with("-") ? std::min(word.find('=') + 1, word.size()) : 0;
    if (start < word.size() && word[start] == '/') {
      const size_t last = word.find_last_not_of('/');
      if (last != std::string::npos && last > start)
        word = word.substr(0, start) + word.substr(word.find_last_of('/', last) + 1);
    }
    line += " " + shell_word(word);
  }
  return line;
}

// Whether --help-all is among the words that are options.
bool wants_all_help(const std::vector<std::string>& words) {
  const auto end = std::find(words.begin(), words.end(), "--");
  return std::find(words.begin(), end, "--help-all") != end;
}

}  // namespace

std::string Application::unexpected(Command& command) {
  const auto extras = command.parser().app->remaining(true);
  std::vector<std::string> names;
  for (const auto& option : command.options())
    for (const auto& name : option.names)
      if (name[0] == '-') names.push_back(name);
  for (const auto& extra : extras) {
    if (extra.size() < 2 || extra[0] != '-') continue;
    const std::string word = extra.substr(0, extra.find('='));
    const std::string meant = meant_by(word, names);
    return fmt::format("there is no option '{}'{}", word, meant.empty() ? "" : "; did you mean " + meant + "?");
  }
  return fmt::format("'{}' is more than expected", join(extras, " "));
}

// The parser takes "--dry-run=VALUE" for the flag itself, or for its absence.
void Application::refuse_values_of_flags(const Command& command, const std::vector<std::string>& words) {
  for (const auto& word : words) {
    if (word == "--") return;
    const size_t equals = word.find('=');
    if (!word.starts_with("--") || equals == std::string::npos) continue;
    const std::string name = word.substr(0, equals);
    for (const auto& option : command.options()) {
      if (option.value.empty() && !option.positional &&
          std::find(option.names.begin(), option.names.end(), name) != option.names.end())
        throw UsageError{fmt::format("{}: expected no value, found '{}'", name, word.substr(equals + 1))};
    }
  }
}

std::string Application::without_value(const Command& command, const std::string& fault) {
  const std::string name = fault.substr(0, fault.find(':'));
  for (const auto& option : command.options()) {
    if (std::find(option.names.begin(), option.names.end(), name) != option.names.end())
      return fmt::format("{}: expected a value ({}), found none", name, option.value);
  }
  return fault;
}

int Application::run(int argc, char** argv) {
  Command* command = nullptr;
  const auto fail = [this, &command](const std::string& message) {
    const std::string full = command == nullptr ? name_ : name_ + " " + command->name();
    print_error(fmt::format("{}: {}\nTry '{} --help'.\n", full, message, full));
    return 2;
  };
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) {
    print_error(application_help(*this));
    return 2;
  }
  const size_t flags = leading_flags(words);
  if (flags == words.size()) return fail("expected a command, found none");
  const std::string first = words[flags];
  if (first == "-h" || first == "--help" || first == "--help-all") {
    print_result(application_help(*this));
    return 0;
  }
  if (first == "--version" || first == "-V" || first == "-v" || first == "version") {
    print_result(fmt::format("{} {}", name_, version_));
    return 0;
  }
  if (first.starts_with("-")) {
    return fail(
        fmt::format("expected a command, found '{}': options stand behind the command (only --json, --quiet and "
                    "--log-level may stand before it)",
                    first));
  }
  command = find(first);
  if (command == nullptr) {
    std::vector<std::string> names;
    for (const auto& known : commands_) names.push_back(known->name());
    const std::string meant = meant_by(first, names);
    return fail(meant.empty() ? fmt::format("there is no command '{}'; the commands are {}", first, join(names, ", "))
                              : fmt::format("there is no command '{}'; did you mean {}?", first, meant));
  }
  std::rotate(words.begin(), words.begin() + static_cast<int64_t>(flags),
              words.begin() + static_cast<int64_t>(flags) + 1);
  if (wants_all_help(words)) {
    print_result(command_help(*this, *command, true));
    return 0;
  }
  try {
    refuse_values_of_flags(*command, words);
    std::reverse(words.begin(), words.end());  // as the parser takes them
    parser_->app.parse(std::move(words));
    command->note_flags();
    command->set_line(shown_line(name_, argc, argv));
  } catch (const CLI::CallForHelp&) {
    print_result(command_help(*this, *command, false));
    return 0;
  } catch (const CLI::ExtrasError&) {
    return fail(unexpected(*command));
  } catch (const CLI::ArgumentMismatch& error) {
    return fail(without_value(*command, error.what()));
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  } catch (const UsageError& error) {
    return fail(error.what());
  }
  try {
    return command->run();
  } catch (const UsageError& error) {
    return fail(error.what());
  }
}

}  // namespace metal_marlin::cli
