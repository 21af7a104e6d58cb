#include "core/counted.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace metal_marlin {
namespace {

TEST(Counted, OneIsSingular) {
  EXPECT_EQ(counted(0, "tensor"), "0 tensors");
  EXPECT_EQ(counted(1, "tensor"), "1 tensor");
  EXPECT_EQ(counted(size_t{2}, "tensor"), "2 tensors");
  EXPECT_EQ(counted(int64_t{-1}, "row"), "-1 rows");
  EXPECT_EQ(counted(1, "bias", "biases"), "1 bias");
  EXPECT_EQ(counted(3, "bias", "biases"), "3 biases");
  EXPECT_STREQ(form_for(1, "is", "are"), "is");
  EXPECT_STREQ(form_for(0, "is", "are"), "are");
}

}  // namespace
}  // namespace metal_marlin
