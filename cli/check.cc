// metal-marlin check: whether an engine will load a checkpoint and read it rightly.
#include <metal_marlin/check.h>

#include <memory>

#include "arguments/options.h"
#include "console/console.h"
#include "subcommands.h"

namespace metal_marlin::cli {

void add_check(Application& application) {
  struct State {
    std::string model;
    CheckOptions options;
    OutputOptions console;
  };
  auto& command = application.add_command(
      "check",
      "Say whether vLLM, SGLang, transformers, mlx-lm or llama.cpp will load a checkpoint, and read it rightly");
  auto state = std::make_shared<State>();
  command.group("Input");
  command.positional("MODEL", state->model, kModelHelp, Completes::kFiles);
  command.group("Engine");
  command.choice("--target", state->options.target, check_targets(), "The engine (required)");
  command.integer("--tensor-parallel", state->options.tensor_parallel, 1, 1024,
                  "Devices over which vllm or sglang splits each layer");
  add_output_options(command, state->console);
  command.example("A checkpoint for vLLM on two devices", "metal-marlin check OUT --target vllm --tensor-parallel 2");
  command.example("A file for llama.cpp, for a script", "metal-marlin check MODEL.gguf --target llama.cpp --json");
  command.action([state] {
    if (state->options.target.empty()) {
      throw UsageError{"--target is required: vllm, sglang, transformers, mlx or llama.cpp"};
    }
    Console console(state->console);
    const CheckResult result = check_model(state->model, state->options);
    console.result(console.json() ? result.to_json() : console.quiet() ? result.verdict : render_check(result));
    return result.loads() ? 0 : kExitMissedGate;
  });
}

}  // namespace metal_marlin::cli
