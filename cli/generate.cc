// metal-marlin generate: continue a text.
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "arguments/values.h"
#include "console/console.h"
#include "console/signals.h"
#include "core/counted.h"
#include "core/files/text_file.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string prompt;
  std::string file;
  std::string input;
  std::string output;
  int64_t batch = 8;
  GenerateOptions options;
  SchemaOptions schema;
  MachineOptions machine;
  ComputeOptions compute;
  OutputOptions console;
  bool stats = false;
};

std::string read_prompt(const Command& command, const State& state) {
  const bool text = command.was_given("prompt");
  const bool file = command.was_given("file");
  if (text && file) throw UsageError{"--prompt and --file exclude each other: expected one of them, found both"};
  if (!text && !file) throw UsageError{"expected --prompt TEXT or --file FILE, found neither"};
  if (text && state.prompt.empty()) throw UsageError{"--prompt: expected a text to continue, found an empty one"};
  if (text) return without_byte_order_mark(state.prompt);
  require_no_waiting(state.file, "a file as a prompt");
  errno = 0;
  std::ifstream stream(state.file, std::ios::binary);
  constexpr size_t kMost = size_t{64} << 20;
  std::string content;
  for (int c = stream.get(); c != EOF && content.size() <= kMost; c = stream.get()) content += static_cast<char>(c);
  if (content.size() > kMost)
    throw FormatError(fmt::format("{}: expected a prompt of at most {} MiB, found more", state.file, kMost >> 20));
  if (!stream.is_open() || stream.bad()) {
    throw SystemError(fmt::format("{}: the prompt cannot be read: {}", state.file,
                                  std::generic_category().message(errno != 0 ? errno : EIO)));
  }
  expect_utf8(state.file, content);
  content = without_byte_order_mark(std::move(content));
  if (content.empty())
    throw FormatError(fmt::format("{}: expected a text to continue, found an empty file", state.file));
  return content;
}

// --input and --output.
int run_file(const Command& command, State& state) {
  if (state.input.empty() || state.output.empty()) {
    throw UsageError{"--input FILE.jsonl and --output FILE.jsonl go together: expected both, found one"};
  }
  if (command.was_given("prompt") || command.was_given("file")) {
    throw UsageError{"--input has the prompts: expected neither --prompt nor --file beside it"};
  }
  if (state.options.speculate > 0)
    throw UsageError{"--input: its prompts share their steps, and nothing is drafted for them: leave out --speculate"};
  check_sampling(state.options);
  set_schema(command, state.schema, state.options);
  Console console(state.console);
  state.options.on_warning = console.warning_once();
  warn_of_idle(console, command, {{"stats", "--input generates many texts"}});
  TextGenerator generator(state.model, state.machine, false, state.compute);
  const StopOnSignal signals;
  try {
    const BatchFileResult result = generate_file(generator, state.input, state.output, state.options, state.batch);
    for (const std::string& failure : result.failures) console.error(failure);
    console.result(console.json()
                       ? fmt::format(R"({{"answered": {}, "failed": {}}})", result.answered, result.failures.size())
                       : fmt::format("{}: {}", state.output, counted(result.answered, "answer")) + "\n");
    return result.failures.empty() ? 0 : 1;
  } catch (const Interrupted&) {
    console.stopped("nothing is written; run the same command again");
    return kExitInterrupted;
  }
}

int run(const Command& command, State& state) {
  if (command.was_given("input") || command.was_given("output")) return run_file(command, state);
  const std::string prompt = read_prompt(command, state);
  check_sampling(state.options);
  set_schema(command, state.schema, state.options);
  Console console(state.console);
  state.options.on_warning = [&console](const std::string& text) { console.warning(text); };
  warn_of_idle(console, command, {{"batch", "only --input uses it"}});
  TextGenerator generator(state.model, state.machine, false, state.compute);
  if (generator.has_chat_template()) {
    console.info(
        fmt::format("this model answers in conversations, and its text is continued as it stands: '{} chat {}' "
                    "asks and answers by its template",
                    "metal-marlin", shell_word(state.model)));
  }
  const StopOnSignal signals;
  GenerateStats stats;
  std::string text;
  try {
    text = generator.generate(prompt, state.options, console.streaming(), &stats);
  } catch (const ArgumentError& e) {
    throw FormatError(
        e.what());  // the prompt is at fault, such as one that is too long: the options are checked before
  }
  if (console.json()) {
    console.result(stats_json(text, stats));
  } else if (!text.empty()) {
    console.result("");  // ends the line
  }
  if (state.stats) print_error(stats_text(stats) + "\n");
  return StopOnSignal::requested() ? kExitInterrupted : 0;
}

}  // namespace

void add_generate(Application& application) {
  auto& command = application.add_command("generate", "Continue a text with a model");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.text("-p,--prompt", state->prompt, "TEXT", "Text to continue");
  command.text("-f,--file", state->file, "FILE", "File that holds the text to continue", Completes::kFiles);
  command.text("--input", state->input, "FILE.jsonl",
               "Many prompts: an object with \"prompt\" or \"messages\" per line", Completes::kFiles);
  command.text("--output", state->output, "FILE.jsonl", "Where the answers to --input go", Completes::kFiles);
  command.integer("--batch", state->batch, 1, 1024, "Texts of --input that are generated beside each other");
  add_options(command, generate_options(), state->options);
  add_schema_options(command, state->schema);
  add_options(command, machine_options(), state->machine, {.keys = {"threads"}});
  add_options(command, compute_options(), state->compute);
  command.group("Output");
  command.flag("--stats", state->stats, "Print tokens per second on stderr at the end");
  add_output_options(command, state->console);
  command.example("Continue a sentence, always with the likeliest token",
                  "metal-marlin generate MODEL -p 'The capital of France is' -n 32 --temp 0");
  command.example("Answer the questions of a file", "metal-marlin generate MODEL --input in.jsonl --output out.jsonl");
  command.example("An answer as JSON that fits a schema",
                  "metal-marlin generate MODEL -p 'Paris as JSON: ' --json-schema-file city.json");
  command.example("How fast it runs", "metal-marlin generate MODEL -p 'Once upon a time' -n 128 --stats");
  command.action([state, &command] { return run(command, *state); });
}

}  // namespace metal_marlin::cli
