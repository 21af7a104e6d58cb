#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "kernels/code_kernels.h"
#include "kernels/code_tables.h"
#include "kernels/dispatch.h"
#include "platform/machine.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace metal_marlin {
namespace {

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

#endif

using namespace internal;  // NOLINT

std::vector<CodeKernels> make_rows() {
  std::vector<CodeKernels> rows{{"scalar", "scalar", round_segments_scalar, multiply_codes_scalar}};
#if defined(__x86_64__)
  if (kernels(Isa::kAvx2) != nullptr) {
    rows.push_back({"avx2", "avx2", round_segments_avx2, multiply_codes_avx2});
    if (has_avx_vnni()) rows.push_back({"avx_vnni", "avx2", round_segments_avx2, multiply_codes_avx_vnni});
  }
  if (kernels(Isa::kAvx512) != nullptr && has_avx512_vnni()) {
    rows.push_back({"avx512_vnni", "avx512", round_segments_avx512, multiply_codes_avx512_vnni});
    if (has_amx()) rows.push_back({"amx", "avx512", round_segments_avx512, multiply_codes_amx});
  }
#endif
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
  // A row of float kernels alone: AVX-512 without VNNI has AVX2's products, the others the plain loops.
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
