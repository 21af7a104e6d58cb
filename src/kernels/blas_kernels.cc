#include "kernels/blas_kernels.h"

#include <cblas.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <mutex>

#include "platform/machine.h"

namespace metal_marlin {
namespace {

void choose() {
  const char* keep = std::getenv("METAL_MARLIN_KEEP_BLAS");
  if (keep != nullptr && std::strcmp(keep, "0") != 0 && *keep != '\0') return;
  if (std::getenv("OPENBLAS_CORETYPE") != nullptr || !can_restart_openblas()) return;
  if (const char* wanted = fitting_blas_kernels(openblas_get_corename())) restart_openblas(wanted);
}

}  // namespace

void choose_blas_kernels() noexcept {
  static std::once_flag once;
  std::call_once(once, [] {
    try {
      choose();
    } catch (...) {  // no memory for a copy of the environment's table: the kernels stay
    }
  });
}

const char* fitting_blas_kernels(const char* chosen) noexcept {
#if defined(__x86_64__)
  constexpr const char* kWithoutAvx2[] = {
      "Katmai",     "Coppermine", "Northwood", "Prescott",    "Banias", "Core2",   "Penryn",
      "Dunnington", "Nehalem",    "Atom",      "Sandybridge", "Athlon", "Opteron", "Opteron_SSE3",
      "Barcelona",  "Bobcat",     "Bulldozer", "Piledriver",  "Nano",   "Generic", "Unknown"};
  const bool old = std::any_of(std::begin(kWithoutAvx2), std::end(kWithoutAvx2),
                               [&](const char* name) { return std::strcmp(name, chosen) == 0; });
  __builtin_cpu_init();
  if (!old || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return nullptr;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  return avx512 ? "SkylakeX" : "Haswell";
#else
  static_cast<void>(chosen);
  return nullptr;
#endif
}

const char* blas_kernel_name() noexcept {
  choose_blas_kernels();
  return openblas_get_corename();
}

}  // namespace metal_marlin
