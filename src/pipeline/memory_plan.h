// What a run will hold in memory, before it starts.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pipeline/recipe.h"

namespace metal_marlin {

struct MemoryPlan {
  uint64_t base = 0;        // program, libraries, tokenizer, tables
  uint64_t states = 0;      // of calibration and held-back tokens; 0 when spilled
  uint64_t spilled = 0;     // the same in scratch files
  uint64_t block = 0;       // f32 weights of one block, and its codes
  uint64_t statistics = 0;  // Gram matrices
  uint64_t forward_scratch = 0;
  uint64_t quantize_scratch = 0;
  uint64_t head = 0;         // head and rows of logits
  uint64_t self_text = 0;    // sampling calibration text: weights and caches
  uint64_t selection = 0;    // choosing sequences from a pool: its states, a block, the profiles
  uint64_t sensitivity = 0;  // measuring what each linear's quantization costs: streams of states, two blocks
  uint64_t disk = 0;         // journal and output, at the peak
  uint64_t peak() const;
};

// The plan alone: nothing is thrown for want of memory or disk.
MemoryPlan measure_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                          int64_t calibration_tokens, int64_t held_back_tokens);
// Says that the plan exceeds the budget that the options give, with its parts and the least budget that would do;
// empty: it does not.
std::string memory_shortage(const MemoryPlan& plan, const QuantizeOptions& options);

// The plan, with the states in scratch files when they do not fit into the budget. SystemError with memory_shortage()
// when the run does not fit even then, and with disk_shortage() when `output` has too little room. An empty `output` is
// not looked at.
MemoryPlan plan_memory(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                       int64_t calibration_tokens, int64_t held_back_tokens, const std::string& output);
nlohmann::json to_json(const MemoryPlan& plan);
// Says that the file system of `output`, which need not exist yet, has too little room for the plan beside what an
// interrupted run has written there already; empty: it has enough.
std::string disk_shortage(const MemoryPlan& plan, const std::string& output);

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
