#include "command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <limits>

#include "help.h"
#include "values.h"

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

OptionInfo& Command::add(const std::string& names, const std::string& value_name, const std::string& help,
                         const std::string& default_text) {
  OptionInfo& option = options_.emplace_back();
  option.names = split(names, ',');
  option.value = value_name;
  option.default_text = default_text;
  option.help = help;
  option.group = group_;
  return option;
}

void Command::parse_value(const OptionInfo& option, std::function<void(const std::string&)> accept) {
  const std::string names = option.positional ? option.names[0] : join(option.names, ",");
  const std::string label = option.names.back();
  auto* added = parser_->app->add_option(names, [accept = std::move(accept), label](const CLI::results_t& texts) {
    for (const auto& text : texts) {
      try {
        accept(text);
      } catch (const UsageError& error) {
        throw UsageError{label + ": " + error.message};
      }
    }
    return true;
  });
  added->required(option.required || option.positional);
  if (option.repeatable)
    added->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->expected(1, 1 << 20)->allow_extra_args(false);
}

void Command::positional(const std::string& name, std::string& value, const std::string& help, Completes completes) {
  OptionInfo& option = add(name, name, help, {});
  option.positional = true;
  option.completes = completes;
  parse_value(option, [&value](const std::string& text) { value = text; });
}

void Command::text(const std::string& names, std::string& value, const std::string& value_name, const std::string& help,
                   Completes completes, bool required, const std::string& default_text) {
  OptionInfo& option = add(names, value_name, help, default_text.empty() ? value : default_text);
  option.completes = completes;
  if (completes == Completes::kChoices) option.choices = split(value_name, '|');
  option.required = required;
  parse_value(option, [&value](const std::string& text) { value = text; });
}

void Command::choice(const std::string& names, std::string& value, const std::vector<std::string>& choices,
                     const std::string& help, bool positional) {
  OptionInfo& option = add(names, join(choices, "|"), help, value);
  option.completes = Completes::kChoices;
  option.choices = choices;
  option.positional = positional;
  parse_value(option, [&value, choices](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end())
      throw UsageError{fmt::format("'{}' is not one of {}", text, join(choices, ", "))};
    value = text;
  });
}

void Command::choice_list(const std::string& names, std::vector<std::string>& values,
                          const std::vector<std::string>& choices, const std::string& help) {
  OptionInfo& option = add(names, join(choices, "|") + "[,...]", help, join(values, ","));
  option.completes = Completes::kChoices;
  option.choices = choices;
  parse_value(option, [&values, choices](const std::string& text) { values = parse_choices(text, choices); });
}

void Command::repeated(const std::string& names, std::vector<std::string>& values, const std::string& value_name,
                       const std::string& help) {
  OptionInfo& option = add(names, value_name, help, join(values, ","));
  option.repeatable = true;
  parse_value(option, [&values](const std::string& text) { values.push_back(text); });
}

void Command::integer(const std::string& names, int64_t& value, int64_t least, int64_t most, const std::string& help,
                      const std::string& default_text) {
  const OptionInfo& option = add(names, "N", help, default_text.empty() ? std::to_string(value) : default_text);
  parse_value(option, [&value, least, most](const std::string& text) { value = parse_integer(text, least, most); });
}

void Command::unsigned_integer(const std::string& names, uint64_t& value, const std::string& help) {
  const OptionInfo& option = add(names, "N", help, std::to_string(value));
  parse_value(option, [&value](const std::string& text) { value = parse_unsigned(text); });
}

void Command::real(const std::string& names, double& value, double least, double most, const std::string& help,
                   const std::string& default_text) {
  const OptionInfo& option = add(names, "X", help, default_text.empty() ? format_real(value) : default_text);
  parse_value(option, [&value, least, most](const std::string& text) { value = parse_real(text, least, most); });
}

void Command::size(const std::string& names, uint64_t& bytes, const std::string& help,
                   const std::string& default_text) {
  const OptionInfo& option = add(names, "SIZE", help, default_text);
  parse_value(option, [&bytes](const std::string& text) { bytes = parse_size(text); });
}

void Command::flag(const std::string& names, bool& value, const std::string& help) {
  const OptionInfo& option = add(names, "", help, {});
  parser_->app->add_flag_callback(join(option.names, ","), [&value] { value = true; });
}

void Command::toggle(const std::string& name, bool& value, const std::string& help) {
  add(fmt::format("--{0},--no-{0}", name), "", help, value ? "--" + name : "--no-" + name);
  parser_->app->add_flag_callback("--" + name, [&value] { value = true; });
  parser_->app->add_flag_callback("--no-" + name, [&value] { value = false; });
}

Application::Application(std::string name, std::string summary, std::string version)
    : name_(std::move(name)),
      summary_(std::move(summary)),
      version_(std::move(version)),
      parser_(std::make_unique<Parser>()) {
  parser_->app.name(name_);
  parser_->app.require_subcommand(1);
  parser_->app.set_version_flag("--version", name_ + " " + version_);
}
Application::~Application() = default;

Command& Application::add_command(const std::string& name, const std::string& summary) {
  auto parser = std::make_unique<Command::Parser>();
  parser->app = parser_->app.add_subcommand(name, summary);
  commands_.push_back(std::make_unique<Command>(name, summary, std::move(parser)));
  return *commands_.back();
}

int Application::run(int argc, char** argv) {
  const auto chosen = [this]() -> const Command* {
    for (const auto& command : commands_)
      if (command->parser().app->count_all() > 0 || parser_->app.got_subcommand(command->name())) return command.get();
    return nullptr;
  };
  const auto fail = [this, &chosen](const std::string& message) {
    const Command* command = chosen();
    const std::string full = command == nullptr ? name_ : name_ + " " + command->name();
    fmt::print(stderr, "{}: {}\nTry '{} --help'.\n", full, message, full);
    return 2;
  };
  if (argc == 1) {
    fmt::print(stderr, "{}", application_help(*this));
    return 2;
  }
  const auto known = [this](const std::string& word) {
    return std::any_of(commands_.begin(), commands_.end(),
                       [&](const auto& command) { return command->name() == word; });
  };
  if (argv[1][0] != '-' && !known(argv[1])) {
    std::vector<std::string> names;
    for (const auto& command : commands_) names.push_back(command->name());
    return fail(fmt::format("there is no command '{}'; the commands are {}", argv[1], join(names, ", ")));
  }
  try {
    parser_->app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const Command* command = chosen();
    fmt::print("{}", command == nullptr ? application_help(*this) : command_help(*this, *command));
    return 0;
  } catch (const CLI::CallForVersion& call) {
    fmt::print("{}\n", call.what());
    return 0;
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  } catch (const UsageError& error) {
    return fail(error.message);
  }
  try {
    return chosen()->run();
  } catch (const UsageError& error) {
    return fail(error.message);
  }
}

}  // namespace metal_marlin::cli
