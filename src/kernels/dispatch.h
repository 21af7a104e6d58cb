// The one table of float kernels (kernel_table.h) and the choice of its row. The first row, `scalar`, is the plain
// reference that the others are tested against. METAL_MARLIN_ISA forces a row by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace metal_marlin {

// The row in use: the best that the machine has, or the one that METAL_MARLIN_ISA names. ArgumentError when it names an
// unknown one or one that this machine lacks; the message lists those it has. Thread-safe.
const KernelTable& kernels();
// Another row, or null where the machine or this build lacks it.
const KernelTable* kernels(Isa isa) noexcept;
// Rows of this machine, slowest first.
std::vector<Isa> supported_isas();
// "scalar", "sse4", "avx2", "avx512", "neon".
const char* isa_name(Isa isa) noexcept;
inline const char* isa_name() {
  return isa_name(kernels().isa);
}
// The row that `name` asks for, as METAL_MARLIN_ISA would (empty: the best). Throws as kernels() does.
const KernelTable& kernels_by_name(const std::string& name);

// accumulate_stats of a contiguous x [rows, cols], shared between threads by blocks of columns.
void accumulate_stats(const float* x, int64_t rows, int64_t cols, double* sum_abs, float* max_abs, double* sum_squares);

}  // namespace metal_marlin
