// Whether an engine will load a checkpoint and read it rightly, as rules say that were read in the engine's sources.
// docs/check.md lists the rules.
#pragma once

#include <metal_marlin/export.h>
#include <metal_marlin/record.h>

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// What a rule has found. Verdicts:
//   refused   the engine will not load the checkpoint
//   wrong     the engine loads it, and reads other weights than are stored
//   unknown   the files do not tell, or the rules do not cover it
//   slow      it works, on a slower way than others
//   note      it works; something to know
struct CheckFinding {
  std::string rule;
  std::string verdict;
  std::string message;
  std::string advice;
  std::string source;

  static void describe(auto& field, auto& self) {
    field("rule", self.rule, "its name");
    field("verdict", self.verdict, "refused, wrong, unknown, slow or note");
    field("message", self.message, "which file, tensor or key; what was expected and what was found");
    field("advice", self.advice, "what to do");
    field("source", self.source, "where the engine says so: package, version, file");
  }
};

struct CheckResult {
  std::string path;
  std::string target;
  int64_t tensor_parallel = 1;
  std::string format;
  std::string verdict;
  std::vector<CheckFinding> findings;
  std::vector<std::string> rules;

  METAL_MARLIN_API std::string to_json() const;
  // Whether the verdict is "loads".
  bool loads() const { return verdict == "loads"; }

  static void describe(auto& field, auto& self) {
    field("path", self.path, "where the checkpoint is");
    field("target", self.target, "the engine");
    field("tensor_parallel", self.tensor_parallel, "on how many devices");
    field("format", self.format, "what its config and tensors say it is: awq, gptq, ..., float, gguf");
    field("verdict", self.verdict,
          "loads; not known; loads, and reads wrongly; does not load. The worst finding decides");
    field("findings", self.findings, "the worst first");
    field("rules", self.rules, "the names of all rules that were asked");
  }
};

struct CheckRule {
  std::string name;
  std::string looks_at;
  std::string source;
};

struct CheckOptions {
  // vllm, sglang, transformers, mlx or llama.cpp.
  std::string target;
  // Over how many devices the engine splits each layer: 1 to 1024. vllm and sglang alone split.
  int64_t tensor_parallel = 1;
};

// The names that CheckOptions::target takes.
METAL_MARLIN_API std::vector<std::string> check_targets();
// The rules of one engine, in the order in which they are asked. ArgumentError for an unknown one.
METAL_MARLIN_API std::vector<CheckRule> check_rules(const std::string& target);

// Reads config.json, the headers of the weights and small tensors that say how the others are stored; no weights. A
// checkpoint that this library could not run gets a verdict too, wherever its files can be read; a file that cannot be
// read is a finding. Nothing is run: what a rule does not know, it does not see. `model` as everywhere: a folder, a
// .safetensors or .gguf file, org/name in the Hugging Face cache.
// Throws ArgumentError for the options, SystemError where there is nothing of this name.
METAL_MARLIN_API CheckResult check_model(const std::string& model, const CheckOptions& options);

// What `check` prints. Control characters in names are shown as escapes.
METAL_MARLIN_API std::string render_check(const CheckResult& result);

}  // namespace metal_marlin
