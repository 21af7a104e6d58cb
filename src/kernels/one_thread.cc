#include "kernels/one_thread.h"

#include "kernels/blas_kernels.h"

// As omp.h declares them, which not every compiler brings.
extern "C" {
int omp_get_max_threads();
void omp_set_num_threads(int count);
}

namespace metal_marlin {

OneThread::OneThread() noexcept : before_(omp_get_max_threads()) {
  if (before_ != 1) omp_set_num_threads(1);
}

OneThread::~OneThread() {
  if (before_ != 1) omp_set_num_threads(before_);
}

OneThreadBlas::OneThreadBlas() noexcept {
  choose_blas_kernels();
}

}  // namespace metal_marlin
