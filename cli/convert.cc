// metal-marlin convert: one 4-bit checkpoint format into another, bit by bit, or any checkpoint into float16.
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "arguments/options.h"
#include "arguments/table_options.h"
#include "console/console.h"
#include "console/signals.h"
#include "subcommands.h"

namespace metal_marlin::cli {
namespace {

struct State {
  std::string model;
  std::string output;
  ConvertOptions options;
  OutputOptions console;
};

const std::vector<Phase> kPhases = {
    {"checking", "tensor", 0.3, {"check"}},
    {"writing", "tensor", 0.7, {"write"}},
};

int run(State& state) {
  if (state.options.to.empty()) throw UsageError{"--to is required: native, awq, gptq, gptq_v2, marlin or f16"};
  Console console(state.console);
  const StopOnSignal signals;
  try {
    const ConvertResult result = convert_model(state.model, state.output, state.options, console.observer(kPhases));
    if (console.json()) {
      console.result(result.to_json());
    } else if (console.quiet()) {
      console.result(state.output);
    } else {
      console.summary(render_conversion(result));
    }
  } catch (const Interrupted&) {
    console.stopped(fmt::format("nothing was written to {}", state.output));
    return kExitInterrupted;
  }
  return 0;
}

}  // namespace

void add_convert(Application& application) {
  auto& command = application.add_command(
      "convert", "Turn a 4-bit checkpoint into another 4-bit format, with the same codes, or any model into float16");
  auto state = std::make_shared<State>();
  command.group("Input and result");
  command.positional("IN", state->model,
                     "A 4-bit checkpoint (--to f16: any model): folder, .safetensors or .gguf file, or org/name in the "
                     "Hugging Face cache",
                     Completes::kFiles);
  command.text("-o,--output", state->output, "OUT", "Folder to write; it appears whole or not at all",
               Completes::kFolders, true);
  add_options(command, convert_options(), state->options);
  add_output_options(command, state->console);
  command.example("A GPTQ checkpoint for engines that read AWQ", "metal-marlin convert IN -o OUT --to awq");
  command.example("A GGUF model as a folder in Hugging Face layout",
                  "metal-marlin convert MODEL.gguf -o FOLDER --to f16");
  command.action([state] { return run(*state); });
}

}  // namespace metal_marlin::cli
