#include "check/check.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace metal_marlin {
namespace {

// The worst first.
constexpr std::array<std::string_view, 5> kVerdicts = {"refused", "wrong", "unknown", "slow", "note"};

size_t rank(const std::string& verdict) {
  return static_cast<size_t>(std::find(kVerdicts.begin(), kVerdicts.end(), verdict) - kVerdicts.begin());
}

const char* verdict_of(const std::vector<CheckFinding>& findings) {
  if (findings.empty()) return "loads";
  switch (rank(findings.front().verdict)) {
    case 0:
      return "does not load";
    case 1:
      return "loads, and reads wrongly";
    case 2:
      return "not known";
    default:
      return "loads";
  }
}

}  // namespace

std::optional<Engine> engine_named(const std::string& name) noexcept {
  for (const Engine engine : {Engine::kVllm, Engine::kSglang, Engine::kTransformers, Engine::kMlx, Engine::kLlamaCpp}) {
    if (name == engine_name(engine)) return engine;
  }
  return std::nullopt;
}

std::vector<const Rule*> rules_of(Engine engine) {
  std::vector<const Rule*> out;
  for (const auto table : {file_rules, model_rules, scheme_rules, kernel_rules, compressed_rules, fused_rules,
                           parallel_rules, mlx_rules, gguf_rules}) {
    for (const Rule& rule : table()) {
      if ((rule.engines & static_cast<Engines>(engine)) != 0) out.push_back(&rule);
    }
  }
  return out;
}

CheckResult ask_rules(const CheckpointFacts& facts, Engine engine, int64_t devices) {
  CheckResult result;
  result.path = facts.path;
  result.target = engine_name(engine);
  result.tensor_parallel = devices;
  result.format = facts.format;
  const Question question{facts, engine, devices};
  for (const Rule* rule : rules_of(engine)) {
    Answer answer(result.findings, rule->name, rule->source);
    rule->ask(question, answer);
    result.rules.emplace_back(rule->name);
  }
  std::stable_sort(result.findings.begin(), result.findings.end(),
                   [](const CheckFinding& a, const CheckFinding& b) { return rank(a.verdict) < rank(b.verdict); });
  result.verdict = verdict_of(result.findings);
  return result;
}

}  // namespace metal_marlin
