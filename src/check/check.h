// The rules, asked of a checkpoint.
#pragma once

#include <metal_marlin/check.h>

#include <optional>

#include "check/facts.h"
#include "check/rule.h"

namespace metal_marlin {

std::optional<Engine> engine_named(const std::string& name) noexcept;
std::vector<const Rule*> rules_of(Engine engine);
CheckResult ask_rules(const CheckpointFacts& facts, Engine engine, int64_t devices);

}  // namespace metal_marlin
