#include "core/tensor.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace metal_marlin {
namespace {

TEST(Buffer, IsAlignedAndZero) {
  for (const size_t size : {size_t{1}, size_t{63}, size_t{64}, size_t{1000}, (size_t{1} << 20) - 1, size_t{1} << 20,
                            (size_t{1} << 20) + 1}) {
    const Buffer buffer(size);
    ASSERT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + size, [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_EQ(Buffer(0).data(), nullptr);
}

TEST(Buffer, Moves) {
  Buffer a(100);
  a.data()[7] = std::byte{42};
  Buffer b = std::move(a);
  EXPECT_EQ(a.size(), 0u);
  EXPECT_EQ(b.data()[7], std::byte{42});
  Buffer c((size_t{1} << 20) + 5);
  c = std::move(b);
  EXPECT_EQ(c.size(), 100u);
  EXPECT_EQ(c.data()[7], std::byte{42});
}

TEST(Buffer, TooMuchIsASystemError) {
  EXPECT_THROW(Buffer(size_t{1} << 62), SystemError);
}

TEST(Matrix, RowsAndClone) {
  Matrix m(3, 4);
  EXPECT_EQ(m.size(), 12);
  EXPECT_EQ(m(2, 3), 0.0f);
  m(1, 2) = 5;
  EXPECT_EQ(m.row(1)[2], 5.0f);
  EXPECT_EQ(m.data()[6], 5.0f);
  const Matrix copy = m.clone();
  m(1, 2) = 6;
  EXPECT_EQ(copy(1, 2), 5.0f);
  EXPECT_EQ(copy.rows(), 3);
  EXPECT_EQ(copy.cols(), 4);
  EXPECT_TRUE(Matrix().empty());
  EXPECT_TRUE(Matrix(0, 5).empty());
  EXPECT_TRUE(Matrix(0, 5).clone().empty());
}

TEST(TensorView, ElementsAndText) {
  EXPECT_EQ((TensorView{"a", DType::kF32, {}, {}}.elements()), 1);
  EXPECT_EQ((TensorView{"a", DType::kF32, {2, 0, 3}, {}}.elements()), 0);
  EXPECT_EQ((TensorView{"a", DType::kF32, {2, 5}, {}}.elements()), 10);
  EXPECT_EQ(shape_string(std::vector<int64_t>{576, 1536}), "[576, 1536]");
  EXPECT_EQ(shape_string({}), "[]");
  OwnedTensor owned{.name = "x", .dtype = DType::kU8, .shape = {3}, .bytes = Buffer(3)};
  EXPECT_EQ(owned.view().bytes.data(), owned.bytes.data());
  EXPECT_EQ(owned.view().bytes.size(), 3u);
}

}  // namespace
}  // namespace metal_marlin
