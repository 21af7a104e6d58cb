// The instruction sets of the integer products (codes/), with the row of the float kernels that each one goes with.
// Both tables take their names from here, so that METAL_MARLIN_ISA means one thing to both.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernel_table.h"

namespace metal_marlin {

enum class CodeIsa : uint8_t { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kAmx, kNeon, kNeonDot, kNeonI8mm };

struct CodeInstructionSet {
  CodeIsa isa = CodeIsa::kScalar;
  const char* name = "";  // "scalar", "avx2", "avx_vnni", "avx512_vnni", "amx", "neon", "neon_dot", "neon_i8mm"
  Isa floats = Isa::kScalar;
};

// All that are known, on this machine or not; of one machine's, slowest first.
std::span<const CodeInstructionSet> code_instruction_sets() noexcept;
// Whether the processor and the system have what `isa` needs beyond its row of float kernels. Asks the system for the
// tile registers of AMX.
bool machine_has(CodeIsa isa) noexcept;

}  // namespace metal_marlin
