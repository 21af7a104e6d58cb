#include "kernels/blas_kernels.h"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
extern "C" {
// What OpenBLAS runs when it is loaded and unloaded; absent where it was built for one processor.
void gotoblas_dynamic_init() __attribute__((weak));
void gotoblas_dynamic_quit() __attribute__((weak));
}
#endif

namespace metal_marlin {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// OpenBLAS takes the name from the environment alone. setenv may move the table that another thread is reading, so the
// process gets a second table with one entry more for that moment, and the first one back, untouched. The second is
// never freed: somebody may hold a pointer into it.
void choose_again(const char* wanted) {
  static std::string entry;
  static std::vector<char*> table;
  entry = std::string("OPENBLAS_CORETYPE=") + wanted;
  char** before = environ;
  for (char** e = before; e != nullptr && *e != nullptr; ++e) table.push_back(*e);
  table.push_back(entry.data());
  table.push_back(nullptr);
  environ = table.data();
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  if (environ == table.data()) {
    environ = before;
  } else {
    unsetenv("OPENBLAS_CORETYPE");  // another thread has changed the environment meanwhile: its table stays
  }
}

void choose() {
  const char* keep = std::getenv("METAL_MARLIN_KEEP_BLAS");
  if (keep != nullptr && std::strcmp(keep, "0") != 0 && *keep != '\0') return;
  if (std::getenv("OPENBLAS_CORETYPE") != nullptr) return;
  if (gotoblas_dynamic_init == nullptr || gotoblas_dynamic_quit == nullptr) return;
  if (const char* wanted = fitting_blas_kernels(openblas_get_corename())) choose_again(wanted);
}
#else
void choose() {}
#endif

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
