// The memory that a command may use, and what its large parts take.
#pragma once

#include <metal_marlin/options.h>

#include <cstdint>

#include "checkpoint/model_source.h"

namespace metal_marlin {

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
