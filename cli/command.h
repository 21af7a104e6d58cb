// The tree of subcommands and options. Parsing, --help, the completion scripts and the man page all come from it.
// CLI11 is known to command.cc alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "options/option.h"

namespace metal_marlin::cli {

// One option or positional as shown to the user.
struct OptionInfo {
  std::vector<std::string> names;  // "-o", "--output", then the aliases; of a positional its name, "MODEL"
  std::string label;               // the name in messages, "--output"
  std::string value;               // name of the value, "FILE" or "sym|asym"; empty: a flag
  std::string default_text;        // empty: none
  std::string help;
  std::string group;                 // heading in --help
  std::vector<std::string> choices;  // with kChoices
  Completes completes = Completes::kNothing;
  bool positional = false;
  bool required = false;
  bool repeatable = false;
  bool list = false;      // several choices in one word, separated by commas
  bool advanced = false;  // shown by --help-all alone
};

struct Example {
  std::string what;     // "Quantize with the defaults"
  std::string command;  // "metal-marlin quantize ..."
};

// One subcommand. Each option writes its variable when it is given; what the variable holds before is the default
// that --help states. Wrong values end in exit code 2 with a message that names the option. Of an option that is given
// several times the last one counts; repeated() ones add up.
// `names`: "-n,--predict", and behind a semicolon other names for the same: "-n,--predict;--max-tokens".
class Command {
 public:
  struct Parser;

  Command(std::string name, std::string summary, std::unique_ptr<Parser> parser);
  ~Command();

  // Heading of the options that follow, which are common ones.
  void group(const std::string& heading) {
    group_ = heading;
    advanced_ = false;
  }
  // The options that follow, up to the next group(), are for few users: --help leaves them to --help-all.
  void advanced() { advanced_ = true; }

  void positional(const std::string& name, std::string& value, const std::string& help, Completes completes);
  // A positional that may be left out.
  void optional_positional(const std::string& name, std::string& value, const std::string& help);
  // Required when `required`; `default_text` replaces the variable's content in --help.
  void text(const std::string& names, std::string& value, const std::string& value_name, const std::string& help,
            Completes completes = Completes::kNothing, bool required = false, const std::string& default_text = {});
  void choice(const std::string& names, std::string& value, const std::vector<std::string>& choices,
              const std::string& help, bool positional = false);
  void integer(const std::string& names, int64_t& value, int64_t least, int64_t most, const std::string& help,
               const std::string& default_text = {});
  void flag(const std::string& names, bool& value, const std::string& help);
  // The same three with all that is said of them in `info`, which needs no names; `accept` and `set` get what is given.
  void value(const std::string& names, const OptionInfo& info, std::function<void(const std::string&)> accept);
  void flag(const std::string& names, const OptionInfo& info, std::function<void()> set);
  void toggle(const std::string& name, const OptionInfo& info, std::function<void(bool)> set);
  // States --help and --help-all, which every command has.
  void help_flag() {
    add("-h,--help", "", "Print the common options", {});
    add("--help-all", "", "Print all options", {});
  }

  // Options on the command line, by their labels without hyphens: "salient-ratio".
  const std::vector<std::string>& given() const { return given_; }
  // The command line as a shell takes it, "metal-marlin quantize MODEL -o OUT", absolute paths cut to their last part.
  const std::string& line() const { return line_; }
  void set_line(const std::string& line) { line_ = line; }
  // To be called when the parser is done: notes the flags that were given.
  void note_flags();
  bool was_given(const std::string& name) const;

  void example(const std::string& what, const std::string& command) { examples_.push_back({what, command}); }
  void action(std::function<int()> run) { run_ = std::move(run); }

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  const std::vector<OptionInfo>& options() const { return options_; }
  const std::vector<Example>& examples() const { return examples_; }
  Parser& parser() { return *parser_; }
  int run() const { return run_(); }

 private:
  OptionInfo& add(const std::string& names, const std::string& value_name, const std::string& help,
                  const std::string& default_text);
  OptionInfo& add(const std::string& names, const OptionInfo& info);
  // Calls `accept` with the text of each occurrence; it throws UsageError when the text is wrong.
  void parse_value(const OptionInfo& option, std::function<void(const std::string&)> accept);

  std::string name_;
  std::string summary_;
  std::string group_ = "Options";
  bool advanced_ = false;
  std::string line_;
  std::vector<std::pair<std::string, std::function<bool()>>> flags_;  // name, whether it was given
  std::vector<OptionInfo> options_;
  std::vector<Example> examples_;
  std::vector<std::string> given_;
  std::function<int()> run_;
  std::unique_ptr<Parser> parser_;
};

// The command line is wrong: exit code 2.
class UsageError : public std::runtime_error {
 public:
  explicit UsageError(const std::string& message) : std::runtime_error(message) {}
};

class Application {
 public:
  Application(std::string name, std::string summary, std::string version);
  ~Application();

  Command& add_command(const std::string& name, const std::string& summary);
  // Parses, runs the chosen command and returns its exit code. --help, --help-all and --version print to stdout and
  // return 0; wrong usage prints to stderr and returns 2. Errors of the command itself pass through. --json, --quiet
  // and --log-level may stand before the command as well; "help [COMMAND]" is "[COMMAND] --help".
  int run(int argc, char** argv);

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  const std::string& version() const { return version_; }
  const std::vector<std::unique_ptr<Command>>& commands() const { return commands_; }
  Command* find(const std::string& name) const;  // null: there is none

 private:
  struct Parser;
  // The message for words that no option or positional of `command` takes.
  static std::string unexpected(Command& command);
  // UsageError for "--json=yes".
  static void refuse_values_of_flags(const Command& command, const std::vector<std::string>& words);
  // The message for an option whose value is missing. `fault` is the parser's message.
  static std::string without_value(const Command& command, const std::string& fault);

  std::string name_;
  std::string summary_;
  std::string version_;
  std::vector<std::unique_ptr<Command>> commands_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace metal_marlin::cli
