// How the rows of the dispatch table are put together: each source of kernels fills its entries of a row.
#pragma once

#include "kernels/kernel_table.h"

namespace metal_marlin::internal {

void fill_scalar(KernelTable& table) noexcept;
// False when this build has no such instruction set.
bool fill_elementwise(Isa isa, KernelTable& table) noexcept;
bool fill_reductions(Isa isa, KernelTable& table) noexcept;
bool fill_products(Isa isa, KernelTable& table) noexcept;
bool fill_kv_attention(Isa isa, KernelTable& table) noexcept;

}  // namespace metal_marlin::internal

// The body of a fill function, after highway.h: calls METHOD of the Highway target that belongs to `isa`. (Macros,
// because the namespaces N_AVX2 ... exist only where the compiler can make them.)
#if defined(HWY_TARGETS) && (HWY_TARGETS & HWY_SSE4)
#define MM_FILL_SSE4(METHOD) \
  case Isa::kSse4:           \
    N_SSE4::METHOD(table);   \
    return true;
#else
#define MM_FILL_SSE4(METHOD)
#endif
#if defined(HWY_TARGETS) && (HWY_TARGETS & HWY_AVX2)
#define MM_FILL_AVX2(METHOD) \
  case Isa::kAvx2:           \
    N_AVX2::METHOD(table);   \
    return true;
#else
#define MM_FILL_AVX2(METHOD)
#endif
#if defined(HWY_TARGETS) && (HWY_TARGETS & HWY_AVX3)
#define MM_FILL_AVX512(METHOD) \
  case Isa::kAvx512:           \
    N_AVX3::METHOD(table);     \
    return true;
#else
#define MM_FILL_AVX512(METHOD)
#endif
#if defined(HWY_TARGETS) && (HWY_TARGETS & HWY_NEON)
#define MM_FILL_NEON(METHOD) \
  case Isa::kNeon:           \
    N_NEON::METHOD(table);   \
    return true;
#else
#define MM_FILL_NEON(METHOD)
#endif
#define MM_FILL(METHOD)                                                                                           \
  switch (isa) {                                                                                                  \
    MM_FILL_SSE4(METHOD) MM_FILL_AVX2(METHOD) MM_FILL_AVX512(METHOD) MM_FILL_NEON(METHOD) default : return false; \
  }
