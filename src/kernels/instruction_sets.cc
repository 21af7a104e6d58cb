#include "kernels/instruction_sets.h"

#include <array>

#include "platform/machine.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace metal_marlin {
namespace {

constexpr std::array<CodeInstructionSet, 8> kSets = {{{CodeIsa::kScalar, "scalar", Isa::kScalar},
                                                      {CodeIsa::kAvx2, "avx2", Isa::kAvx2},
                                                      {CodeIsa::kAvxVnni, "avx_vnni", Isa::kAvx2},
                                                      {CodeIsa::kAvx512Vnni, "avx512_vnni", Isa::kAvx512},
                                                      {CodeIsa::kAmx, "amx", Isa::kAvx512},
                                                      {CodeIsa::kNeon, "neon", Isa::kNeon},
                                                      {CodeIsa::kNeonDot, "neon_dot", Isa::kNeon},
                                                      {CodeIsa::kNeonI8mm, "neon_i8mm", Isa::kNeon}}};

#if defined(__x86_64__)

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};
Leaf leaf7(unsigned sub) noexcept {
  Leaf l;
  if (__get_cpuid_count(7, sub, &l.a, &l.b, &l.c, &l.d) == 0) return {};
  return l;
}
bool bit(unsigned word, int n) noexcept {
  return ((word >> n) & 1u) != 0;
}

// By cpuid: clang 16 does not know all of these names. That the system saves the registers is what the row of float
// kernels says; those of AMX a process has to ask for.
bool has_avx_vnni() noexcept {
  return bit(leaf7(1).a, 4);
}
bool has_avx512_vnni() noexcept {
  return bit(leaf7(0).c, 11);
}
bool has_amx() noexcept {
  return has_avx512_vnni() && bit(leaf7(0).d, 24) && bit(leaf7(0).d, 25) && request_amx_tiles();
}

#else

bool has_avx_vnni() noexcept {
  return false;
}
bool has_avx512_vnni() noexcept {
  return false;
}
bool has_amx() noexcept {
  return false;
}

#endif

}  // namespace

std::span<const CodeInstructionSet> code_instruction_sets() noexcept {
  return kSets;
}

bool machine_has(CodeIsa isa) noexcept {
  switch (isa) {
    case CodeIsa::kScalar:
    case CodeIsa::kAvx2:
    case CodeIsa::kNeon:
      return true;
    case CodeIsa::kAvxVnni:
      return has_avx_vnni();
    case CodeIsa::kAvx512Vnni:
      return has_avx512_vnni();
    case CodeIsa::kAmx:
      return has_amx();
    case CodeIsa::kNeonDot:
      return has_arm_dot_products();
    case CodeIsa::kNeonI8mm:
      return has_arm_dot_products() && has_arm_matrix_products();
  }
  return false;
}

}  // namespace metal_marlin
