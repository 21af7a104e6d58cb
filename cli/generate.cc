// metal-marlin generate: continue a text.
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>

#include "console.h"
#include "options.h"
#include "signals.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string prompt;
  std::string file;
  GenerateOptions options;
  MachineOptions machine;
  SharedTexts texts;
  OutputOptions console;
  bool stats = false;
};

std::string read_prompt(const State& state) {
  if (state.prompt.empty() == state.file.empty()) throw UsageError{"one of --prompt and --file is needed"};
  if (state.file.empty()) return state.prompt;
  std::ifstream stream(state.file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) throw SystemError(fmt::format("{}: cannot be read as a prompt", state.file));
  return text;
}

int run(State& state) {
  const std::string prompt = read_prompt(state);
  state.machine.threads = static_cast<int>(state.texts.threads);
  Console console(state.console);
  TextGenerator generator(state.model, state.machine);
  const StopOnSignal signals;
  GenerateStats stats;
  const bool stream = !console.json();
  const std::string text = generator.generate(
      prompt, state.options,
      [stream](const std::string& piece) {
        if (stream) {
          std::fwrite(piece.data(), 1, piece.size(), stdout);
          std::fflush(stdout);
        }
        return !StopOnSignal::requested();
      },
      &stats);
  console.result(console.json() ? stats_json(text, stats) : "");
  if (state.stats) fmt::print(stderr, "{}\n", stats_text(stats));
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
  add_sampling_options(command, state->options);
  add_machine_options(command, state->machine, state->texts, false, false);
  command.group("Output");
  command.flag("--stats", state->stats, "Print tokens per second on stderr at the end");
  add_output_options(command, state->console);
  command.example("Continue a sentence, always with the likeliest token",
                  "metal-marlin generate MODEL -p 'The capital of France is' -n 32 --temp 0");
  command.example("How fast it runs", "metal-marlin generate MODEL -p 'Once upon a time' -n 128 --stats");
  command.action([state] { return run(*state); });
}

}  // namespace metal_marlin::cli
