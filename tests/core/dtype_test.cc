#include "core/dtype.h"

#include <gtest/gtest.h>

#include <string>

#include "core/checked.h"

namespace metal_marlin {
namespace {

TEST(DType, NamesAndSizes) {
  struct Row {
    DType dtype;
    std::string_view name;
    size_t size;
    bool is_float;
  };
  for (const Row& row :
       {Row{DType::kBool, "BOOL", 1, false}, Row{DType::kU8, "U8", 1, false}, Row{DType::kI8, "I8", 1, false},
        Row{DType::kU16, "U16", 2, false}, Row{DType::kI16, "I16", 2, false}, Row{DType::kU32, "U32", 4, false},
        Row{DType::kI32, "I32", 4, false}, Row{DType::kU64, "U64", 8, false}, Row{DType::kI64, "I64", 8, false},
        Row{DType::kF8E4M3, "F8_E4M3", 1, true}, Row{DType::kF8E5M2, "F8_E5M2", 1, true},
        Row{DType::kF16, "F16", 2, true}, Row{DType::kBF16, "BF16", 2, true}, Row{DType::kF32, "F32", 4, true},
        Row{DType::kF64, "F64", 8, true}}) {
    EXPECT_EQ(dtype_name(row.dtype), row.name);
    EXPECT_EQ(dtype_size(row.dtype), row.size) << row.name;
    EXPECT_EQ(dtype_from_name(row.name), row.dtype) << row.name;
    EXPECT_EQ(is_float(row.dtype), row.is_float) << row.name;
  }
  for (const std::string_view name : {"", "f32", "F3", "F320", "C64"})
    EXPECT_FALSE(dtype_from_name(name).has_value()) << name;
}

TEST(Checked, NothingWraps) {
  constexpr uint64_t kMax = ~uint64_t{0};
  EXPECT_EQ(checked_mul(1u << 31, 1u << 31), uint64_t{1} << 62);
  EXPECT_FALSE(checked_mul(kMax, 2).has_value());
  EXPECT_EQ(checked_mul(kMax, 0), 0u);
  EXPECT_EQ(checked_add(kMax, 0), kMax);
  EXPECT_FALSE(checked_add(kMax, 1).has_value());
  const auto bytes = [](std::initializer_list<int64_t> shape, uint64_t element) {
    return checked_bytes(std::span(shape.begin(), shape.size()), element);
  };
  EXPECT_EQ(bytes({}, 4), 4u);
  EXPECT_EQ(bytes({3, 5}, 2), 30u);
  EXPECT_EQ(bytes({0, 1ll << 62}, 8), 0u);
  EXPECT_FALSE(bytes({-1}, 1).has_value());
  EXPECT_FALSE(bytes({1ll << 62, 2}, 1).has_value());
  EXPECT_FALSE(bytes({1ll << 32, 1ll << 32}, 1).has_value());
}

}  // namespace
}  // namespace metal_marlin
