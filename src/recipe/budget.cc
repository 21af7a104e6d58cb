#include "recipe/budget.h"

#include <algorithm>

#include "core/machine.h"

namespace metal_marlin {

uint64_t memory_budget(const MachineOptions& options) {
  return options.memory_bytes > 0 ? options.memory_bytes : memory_bytes() / 10 * 9;
}

bool states_spill(const ModelSource& source, const MachineOptions& machine, int64_t tokens) {
  return static_cast<uint64_t>(tokens * source.config().hidden_size) * sizeof(float) > memory_budget(machine) / 3;
}

uint64_t program_bytes(const ModelSource& source) {
  uint64_t tokenizer_bytes = 0;
  for (const CompanionFile& file : source.companion_files()) {
    if (file.name == "tokenizer.json") tokenizer_bytes = 12 * file.bytes;
  }
  return kProgramBytes + tokenizer_bytes;
}

uint64_t head_bytes(const ModelSource& source) {
  const ModelConfig& c = source.config();
  uint64_t mapped = 0;
  uint64_t element = 2;
  for (const CheckpointTensor& t : source.tensors()) {
    if (t.name != source.head_tensor()) continue;
    mapped = t.bytes;
    if (t.stored_as == "F32") element = sizeof(float);
  }
  constexpr uint64_t kLogits = uint64_t{1} << 26;
  return static_cast<uint64_t>(c.vocab_size) * static_cast<uint64_t>(c.hidden_size) * element +
         std::max(mapped, kLogits);
}

}  // namespace metal_marlin
