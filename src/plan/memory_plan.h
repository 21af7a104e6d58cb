// What a run will hold in memory, before it starts.
#pragma once

#include <metal_marlin/plan_records.h>
#include <cstdint>
#include <string>

#include "checkpoint/model_source.h"
#include "recipe/budget.h"
#include "recipe/recipe.h"

namespace metal_marlin {

// The plan alone: nothing is thrown for want of memory or disk.
MemoryRecord measure_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                            int64_t calibration_tokens, int64_t held_back_tokens);
// Says that the plan exceeds the budget that the options give, with its parts and the least budget that would do;
// empty: it does not.
std::string memory_shortage(const MemoryRecord& plan, const QuantizeOptions& options);

// The plan, with the states in scratch files when they do not fit into the budget. SystemError with memory_shortage()
// when the run does not fit even then, and with disk_shortage() when `output` has too little room. An empty `output` is
// not looked at.
MemoryRecord plan_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                         int64_t calibration_tokens, int64_t held_back_tokens, const std::string& output);
// Says that the file system of `output`, which need not exist yet, has too little room for the plan beside what an
// interrupted run has written there already; empty: it has enough.
std::string disk_shortage(const MemoryRecord& plan, const std::string& output);

}  // namespace metal_marlin
