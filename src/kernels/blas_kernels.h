// Which of its kernels OpenBLAS runs.
#pragma once

namespace metal_marlin {

// OpenBLAS 0.3.21 knows processors by their model numbers and takes kernels of 2004 (Prescott, SSE3) for those that
// came after it, an eighth of what they can do. The first call in the process makes such a choice again where the
// processor has AVX2; all later ones do nothing. Nothing happens while the library is merely loaded.
// The environment decides against it: OPENBLAS_CORETYPE names the kernels itself; METAL_MARLIN_KEEP_BLAS=1 is for
// processes in which other threads may be inside of the same OpenBLAS at that moment, which must not be.
void choose_blas_kernels() noexcept;

// The kernel that OpenBLAS chose ("SkylakeX", "Haswell", ...): belongs beside every speed that is stated.
const char* blas_kernel_name() noexcept;
// Name of the OpenBLAS kernels to take in place of those `chosen`, which use less than this processor has; null: they
// fit.
const char* fitting_blas_kernels(const char* chosen) noexcept;

}  // namespace metal_marlin
