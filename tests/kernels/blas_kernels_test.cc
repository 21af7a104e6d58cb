#include "kernels/blas_kernels.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

extern "C" char* openblas_get_corename();

namespace metal_marlin {
namespace {

// Each case runs in a process of its own, which has made no product yet.
class BlasKernels : public testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    unsetenv("OPENBLAS_CORETYPE");
    unsetenv("METAL_MARLIN_KEEP_BLAS");
  }
};

// 0 when all is as expected: the kernels afterwards fit if `fit`, else they are those from before.
int fault(bool fit) {
  const std::string before = openblas_get_corename();
  char** const table = environ;
  const char* const name = std::getenv("OPENBLAS_CORETYPE");
  const std::string after = blas_kernel_name();
  if (environ != table || std::getenv("OPENBLAS_CORETYPE") != name) return 2;
  if (fit) return fitting_blas_kernels(after.c_str()) == nullptr ? 0 : 3;
  return after == before ? 0 : 4;
}

TEST_F(BlasKernels, AreChosenAgainWhereTheyDoNotFitAndTheEnvironmentStays) {
  EXPECT_EXIT(_exit(fault(true)), testing::ExitedWithCode(0), "");
}

TEST_F(BlasKernels, StayWhereTheEnvironmentSaysSo) {
  EXPECT_EXIT(
      {
        setenv("METAL_MARLIN_KEEP_BLAS", "1", 1);
        _exit(fault(false));
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        setenv("OPENBLAS_CORETYPE", "Prescott", 1);  // as if it had been set before the program started
        _exit(fault(false));
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace metal_marlin
