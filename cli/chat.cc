// metal-marlin chat: a conversation on the terminal, or with the lines of a script.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "console/console.h"
#include "console/signals.h"
#include "core/files/text_file.h"
#include "formats/terminal_text.h"
#include "platform/terminal.h"
#include "subcommands.h"
#include "terminal/history_file.h"
#include "terminal/line_editor.h"
#include "terminal/message_parts.h"

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

constexpr const char* kHelp =
    "/help         this list\n"
    "/clear        begin a new conversation\n"
    "/system TEXT  the system message of the conversation; without TEXT: show it\n"
    "/regenerate   answer the last message again, with other random numbers\n"
    "/exit         leave (Ctrl-D too)\n"
    "Ctrl-C stops an answer, or drops a line. A line that ends with \\ goes on in the next one, and so does a text "
    "that\n"
    "begins with \"\"\", up to the next \"\"\". Arrow keys and Ctrl-R find earlier lines.\n";

enum class Input { kText, kEnd, kInterrupted };

// Where the messages come from.
class Lines {
 public:
  Lines() = default;
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  virtual ~Lines() = default;
  virtual Input read(std::string& text) = 0;
};

// Each line of a script is a message, whichever line ends it has.
class ScriptLines : public Lines {
 public:
  Input read(std::string& text) override {
    if (!std::getline(std::cin, text)) return StopOnSignal::requested() ? Input::kInterrupted : Input::kEnd;
    if (text.ends_with('\r')) text.pop_back();
    // An editor may have put a byte order mark before the first one, which is no part of what the user says.
    if (std::exchange(first_, false)) text = without_byte_order_mark(std::move(text));
    return Input::kText;
  }

 private:
  bool first_ = true;
};

// A person types, with editing and the lines of earlier sessions.
class TypedLines : public Lines {
 public:
  explicit TypedLines(Console& console) : console_(console) {
    const std::string folder = HistoryFile::default_folder();
    if (folder.empty()) return;
    history_.emplace(folder);
    with_history([&] {
      for (const std::string& text : history_->load()) editor_.remember(text);
    });
  }

  Input read(std::string& text) override {
    MessageParts parts;
    for (std::string line;;) {
      switch (editor_.read(parts.begun() ? ". " : "> ", line)) {
        case LineEditor::Event::kEnd:
          return Input::kEnd;
        case LineEditor::Event::kInterrupted:
          if (parts.begun()) {
            static_cast<void>(parts.take());
          } else if (std::exchange(leaves_, true)) {
            return Input::kInterrupted;
          } else {
            print_error("Ctrl-C again, Ctrl-D or /exit leaves.\n");
          }
          continue;
        case LineEditor::Event::kDropped:
          static_cast<void>(parts.take());
          leaves_ = false;
          continue;
        case LineEditor::Event::kLine:
          break;
      }
      leaves_ = false;
      if (!parts.add(line)) continue;
      text = parts.take();
      if (text.empty()) continue;
      editor_.remember(text);
      with_history([&] { history_->add(text); });
      return Input::kText;
    }
  }

 private:
  // A conversation goes on without a history.
  template <class Action>
  void with_history(const Action& action) {
    if (!history_) return;
    try {
      action();
    } catch (const Error& e) {
      console_.warning(fmt::format("{}; what you type is not kept for later sessions", e.what()));
      history_.reset();
    }
  }

  Console& console_;
  LineEditor editor_{HistoryFile::kMost};
  std::optional<HistoryFile> history_;
  bool leaves_ = false;  // Ctrl-C was the last thing
};

class Conversation {
 public:
  Conversation(TextGenerator& generator, State& state, Console& console, bool typed)
      : generator_(generator), state_(state), console_(console), typed_(typed), seed_(state.options.seed) {
    begin();
  }

  // Does what a line asks for; false: it asks to leave.
  bool take(const std::string& line) {
    const size_t end = std::min(line.find(' '), line.size());
    const std::string word = line.substr(0, end);
    const size_t begin_of_rest = line.find_first_not_of(' ', end);
    const std::string rest = begin_of_rest == std::string::npos ? "" : line.substr(begin_of_rest);
    const bool alone = rest.empty();
    if (word == "/exit" && alone) return false;
    if (word == "/clear" && alone) {
      begin();
    } else if (word == "/help" && alone) {
      print_error(kHelp);
    } else if (word == "/system") {
      set_system(rest);
    } else if (word == "/regenerate" && alone) {
      regenerate();
    } else if (typed_ && is_command(word) && alone) {
      console_.error(fmt::format("{}: no such command; /help lists them", word));
    } else if (!line.empty()) {
      state_.options.seed = seed_;
      messages_.emplace_back("user", line);
      answer();
    }
    return true;
  }

  bool refused() const { return refused_; }

 private:
  void begin() {
    messages_.clear();
    if (!state_.system.empty()) messages_.emplace_back("system", state_.system);
  }

  // "/word", but not a path.
  static bool is_command(const std::string& word) {
    return word.size() > 1 && word[0] == '/' &&
           std::all_of(word.begin() + 1, word.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  }

  void set_system(const std::string& text) {
    if (text.empty()) {
      print_error(state_.system.empty() ? "There is no system message.\n" : text_for_terminal(state_.system) + "\n");
      return;
    }
    state_.system = text;
    if (!messages_.empty() && messages_.front().first == "system") {
      messages_.front().second = text;
    } else {
      messages_.emplace(messages_.begin(), "system", text);
    }
  }

  void regenerate() {
    if (messages_.empty() || messages_.back().first != "assistant") {
      console_.error("/regenerate: expected an answer to replace, found none");
      return;
    }
    const std::string old = messages_.back().second;
    messages_.pop_back();
    const auto asked = messages_.back();
    if (state_.options.temp > 0 && state_.options.top_k != 1) ++state_.options.seed;
    if (!answer()) {  // the conversation stays as it was
      messages_.push_back(asked);
      messages_.emplace_back("assistant", old);
    }
  }

  // Answers the last message; false: there is no answer, and the message is left out.
  bool answer() {
    GenerateStats stats;
    std::string text;
    try {
      text = generator_.chat(messages_, state_.options, console_.streaming(), &stats);
    } catch (const ArgumentError& e) {
      // The line, not the model, is at fault: a text that is too long, or one that the template refuses.
      console_.error(
          fmt::format("{}; the line is left out, and the conversation goes on (/clear begins anew)", e.what()));
      messages_.pop_back();
      refused_ = true;
      return false;
    }
    console_.result(console_.json() ? stats_json(text, stats) : "");
    if (state_.stats) print_error(stats_text(stats) + "\n");
    if (stats.stop == "length" && state_.options.predict < 0) {
      console_.warning("the context is full, which ended the answer; /clear begins anew, and -c gives a longer one");
    }
    if (text.empty() && stats.stop == "caller") {
      messages_.pop_back();
      return false;
    }
    messages_.emplace_back("assistant", text);
    return true;
  }

  TextGenerator& generator_;
  State& state_;
  Console& console_;
  bool typed_;
  uint64_t seed_;
  std::vector<std::pair<std::string, std::string>> messages_;
  bool refused_ = false;
};

int run(const Command& command, State& state) {
  check_sampling(state.options);
  set_schema(command, state.schema, state.options);
  Console console(state.console);
  state.options.on_warning = console.warning_once();
  TextGenerator generator(state.model, state.machine, true, state.compute);
  const StopOnSignal signals;
  const bool typed = input_is_terminal();
  std::unique_ptr<Lines> lines;
  if (typed) {
    lines = std::make_unique<TypedLines>(console);
    if (!console.quiet()) print_error("Ctrl-D or /exit leaves, Ctrl-C stops an answer, /help says more.\n");
  } else {
    lines = std::make_unique<ScriptLines>();
  }
  Conversation conversation(generator, state, console, typed);
  for (std::string line;;) {
    const Input input = lines->read(line);
    if (input == Input::kInterrupted) return kExitInterrupted;
    if (input == Input::kEnd || !conversation.take(line)) break;
    if (StopOnSignal::requested()) {
      if (!typed || StopOnSignal::termination_requested()) return kExitInterrupted;
      StopOnSignal::rearm();
    }
  }
  return conversation.refused() && !typed ? kExitFault : 0;
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
