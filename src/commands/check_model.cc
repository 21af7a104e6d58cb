// check: whether an engine will load a checkpoint and read it rightly.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/check.h>
#include <metal_marlin/error.h>

#include "check/check.h"
#include "checkpoint/model_source.h"
#include "core/border.h"
#include "core/counted.h"
#include "formats/text.h"
#include "report/render/printable.h"

namespace metal_marlin {
namespace {

constexpr int64_t kMostDevices = 1024;

Engine engine_of(const std::string& target) {
  if (const auto engine = engine_named(target)) return *engine;
  throw ArgumentError(
      "target", fmt::format("--target: expected one of {}, found {}", fmt::join(check_targets(), ", "), shown(target)));
}

}  // namespace

std::vector<std::string> check_targets() {
  return {"vllm", "sglang", "transformers", "mlx", "llama.cpp"};
}

std::vector<CheckRule> check_rules(const std::string& target) try {
  std::vector<CheckRule> out;
  for (const Rule* rule : rules_of(engine_of(target))) out.push_back({rule->name, rule->looks_at, rule->source});
  return out;
} catch (...) {
  rethrow_as_error("check_rules");
}

CheckResult check_model(const std::string& model, const CheckOptions& options) try {
  const Engine engine = engine_of(options.target);
  if (options.tensor_parallel < 1 || options.tensor_parallel > kMostDevices) {
    throw ArgumentError("tensor-parallel", fmt::format("--tensor-parallel: expected a number from 1 to {}, found {}",
                                                       kMostDevices, options.tensor_parallel));
  }
  if (options.tensor_parallel > 1 && engine != Engine::kVllm && engine != Engine::kSglang) {
    throw ArgumentError("tensor-parallel",
                        fmt::format("--tensor-parallel {}: {} does not split layers; vllm and sglang do",
                                    options.tensor_parallel, options.target));
  }
  return ask_rules(read_facts(resolve_model(model)), engine, options.tensor_parallel);
} catch (...) {
  rethrow_as_error("check_model");
}

std::string render_check(const CheckResult& result) try {
  CheckResult r = result;
  make_printable(r);
  const std::string devices = r.tensor_parallel > 1 ? fmt::format(" on {} devices", r.tensor_parallel) : "";
  std::string out = fmt::format("{} ({}) under {}{}: {}\n", r.path, r.format, r.target, devices, r.verdict);
  for (const CheckFinding& f : r.findings) {
    out += fmt::format("\n{}  {}\n  {}\n", f.verdict, f.rule, f.message);
    if (!f.advice.empty()) out += fmt::format("  what to do: {}\n", f.advice);
    out += fmt::format("  source: {}\n", f.source);
  }
  out += fmt::format("\n{} asked, {} found something\n", counted(r.rules.size(), "rule"), r.findings.size());
  return out;
} catch (...) {
  rethrow_as_error("render_check");
}

}  // namespace metal_marlin
