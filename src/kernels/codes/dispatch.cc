#include "kernels/dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "kernels/codes/kernels.h"
#include "kernels/codes/tables.h"
#include "kernels/instruction_sets.h"

namespace metal_marlin {
namespace {

using namespace internal;  // NOLINT

// The functions of a row; none where this build has no such instruction set.
CodeKernels row_of(CodeIsa isa) noexcept {
  CodeKernels row;
  switch (isa) {
    case CodeIsa::kScalar:
      row.round_segments = round_segments_scalar;
      row.multiply_codes = multiply_codes_scalar;
      break;
#if defined(__x86_64__)
    case CodeIsa::kAvx2:
      row.round_segments = round_segments_avx2;
      row.multiply_codes = multiply_codes_avx2;
      break;
    case CodeIsa::kAvxVnni:
      row.round_segments = round_segments_avx2;
      row.multiply_codes = multiply_codes_avx_vnni;
      break;
    case CodeIsa::kAvx512Vnni:
      row.round_segments = round_segments_avx512;
      row.multiply_codes = multiply_codes_avx512_vnni;
      break;
    case CodeIsa::kAmx:
      row.round_segments = round_segments_avx512;
      row.multiply_codes = multiply_codes_amx;
      break;
#elif defined(__aarch64__)
    case CodeIsa::kNeon:
      row.round_segments = round_segments_neon;
      row.multiply_codes = multiply_codes_neon;
      break;
    case CodeIsa::kNeonDot:
      row.round_segments = round_segments_neon;
      row.multiply_codes = multiply_codes_neon_dot;
      break;
    case CodeIsa::kNeonI8mm:
      row.round_segments = round_segments_neon;
      row.multiply_codes = multiply_codes_neon_i8mm;
      break;
#endif
    default:
      break;
  }
  return row;
}

std::vector<CodeKernels> make_rows() {
  std::vector<CodeKernels> rows;
  for (const CodeInstructionSet& set : code_instruction_sets()) {
    CodeKernels row = row_of(set.isa);
    if (row.multiply_codes == nullptr || kernels(set.floats) == nullptr || !machine_has(set.isa)) continue;
    row.name = set.name;
    row.floats = isa_name(set.floats);
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

const std::vector<CodeKernels>& supported_code_kernels() {
  static const std::vector<CodeKernels> rows = make_rows();
  return rows;
}

const CodeKernels& code_kernels_by_name(const std::string& name) {
  const auto& rows = supported_code_kernels();
  if (name.empty()) return rows.back();
  const auto named = [&](std::string_view wanted) {
    return std::find_if(rows.begin(), rows.end(), [&](const CodeKernels& row) { return wanted == row.name; });
  };
  if (const auto it = named(name); it != rows.end()) return *it;
  kernels_by_name(name);  // refuses what neither table has
  // A row of float kernels alone: AVX-512 without VNNI has AVX2's products, SSE4 the plain loops.
  const auto it = named(name == "avx512" ? "avx2" : "scalar");
  return it == rows.end() ? rows.front() : *it;
}

const CodeKernels& code_kernels() {
  static const CodeKernels& chosen = [&]() -> const CodeKernels& {
    const char* name = std::getenv("METAL_MARLIN_ISA");
    return code_kernels_by_name(name == nullptr ? "" : name);
  }();
  return chosen;
}

}  // namespace metal_marlin
