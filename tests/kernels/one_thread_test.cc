#include "kernels/one_thread.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <vector>

#include "core/tensor.h"
#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/linear_algebra.h"

extern "C" {
int omp_get_max_threads();
void omp_set_num_threads(int n);
}

namespace metal_marlin {
namespace {

Matrix filled(int64_t rows, int64_t cols) {
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(i % 7) - 3.0f;
  return m;
}

// Large enough for OpenBLAS and oneDNN to want all processors.
void multiply() {
  constexpr int64_t kSize = 384;
  const Matrix a = filled(kSize, kSize);
  Matrix c(kSize, kSize);
  sgemm_tile(false, true, kSize, kSize, kSize, 1.0f, a.data(), kSize, a.data(), kSize, 0.0f, c.data(), kSize);
  ssyrk_tile(kSize, kSize, 1.0f, a.data(), kSize, 0.0f, c.data(), kSize);
  gram_accumulate(a.data(), kSize, kSize, c);
  const PackedWeight packed(a.data(), kSize, kSize, MatmulPrecision::kF32);
  linear_rows(packed, a.data(), kSize, nullptr, c.data(), kSize);
  linear_panels(packed, a.data(), 64, nullptr, c.data(), kSize);
  std::vector<double> factor(static_cast<size_t>(kSize * kSize));
  for (int64_t i = 0; i < kSize; ++i) factor[static_cast<size_t>(i * kSize + i)] = 2.0;
  EXPECT_EQ(cholesky_lower(factor.data(), kSize), -1);
  invert_lower(factor.data(), kSize);
}

#if defined(__linux__)
int64_t threads_of_process() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

// The pool's threads are the only ones: neither library starts a team, on the calling thread or in a loop.
TEST(OneThread, LibrariesStartNoThreads) {
  omp_set_num_threads(4);
  const ThreadCount scope(3);
  parallel_for(64, [](int64_t) {});
  const int64_t before = threads_of_process();
  for (int round = 0; round < 2; ++round) {
    multiply();
    parallel_for(3, [](int64_t) { multiply(); });
  }
  EXPECT_EQ(threads_of_process(), before);
}
#endif

TEST(OneThread, TheCallersNumberComesBack) {
  omp_set_num_threads(4);
  {
    const OneThread guard;
    EXPECT_EQ(omp_get_max_threads(), 1);
    const OneThreadBlas inner;
    EXPECT_EQ(omp_get_max_threads(), 1);
  }
  EXPECT_EQ(omp_get_max_threads(), 4);
  multiply();
  EXPECT_EQ(omp_get_max_threads(), 4);
}

}  // namespace
}  // namespace metal_marlin
