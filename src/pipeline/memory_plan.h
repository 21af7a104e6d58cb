// What a run will hold in memory, before it starts.
#pragma once

#include <metal_marlin/plan_records.h>
#include <cstdint>
#include <string>

#include "pipeline/recipe.h"

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

// Program, libraries and their tables (measured on SmolLM2).
inline constexpr uint64_t kProgramBytes = uint64_t{90} << 20;

// Program and the tables of the model's tokenizer.
uint64_t program_bytes(const ModelSource& source);
// The output head while it is used: in 16 bits (f32 where it is stored so), beside the mapped pages that it is read
// from at first, and a tile of logits.
uint64_t head_bytes(const ModelSource& source);

// Whether the hidden states of so many tokens, with nothing else to hold, go to a file.
bool states_spill(const ModelSource& source, const MachineOptions& machine, int64_t tokens);

// The budget in bytes that `options` asks for.
uint64_t memory_budget(const MachineOptions& options);

}  // namespace metal_marlin
