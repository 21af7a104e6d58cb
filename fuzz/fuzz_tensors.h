// Tensors of a fuzzer's choice, for the targets that unpack layouts.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "core/checked.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace metal_marlin::fuzz {

// Tensors of the input's choice. Each stands in a block of its exact size, so that a read past its end is seen.
class Tensors {
 public:
  explicit Tensors(FuzzedDataProvider& input) : input_(input) {}

  // Mostly of this type and shape; `columns` < 0: one dimension.
  TensorView make(DType type, int64_t rows, int64_t columns = -1) {
    return make(type, columns < 0 ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, columns});
  }
  TensorView make(DType type, const std::vector<int64_t>& shape) {
    static constexpr DType kTypes[] = {DType::kI32, DType::kU32, DType::kF16, DType::kF32, DType::kBF16,
                                       DType::kU8,  DType::kI16, DType::kI8,  DType::kI64, DType::kF8E4M3};
    TensorView v;
    v.name = "fuzz";
    v.dtype = input_.ConsumeIntegralInRange(0, 15) == 0 ? input_.PickValueInArray(kTypes) : type;
    v.shape = shape;
    if (v.shape.empty()) v.shape = {1};
    switch (input_.ConsumeIntegralInRange(0, 19)) {
      case 0:
        v.shape.front() = input_.ConsumeIntegralInRange<int64_t>(0, 600);
        break;
      case 1:
        v.shape.back() = input_.ConsumeIntegralInRange<int64_t>(0, 600);
        break;
      case 2:
        v.shape.push_back(1);
        break;
      case 3:  // nothing of something huge
        v.shape.front() = 0;
        if (v.shape.size() > 1) v.shape.back() = input_.ConsumeIntegral<int64_t>() & INT64_MAX;
        break;
      case 4:
        v.shape.clear();
        break;
      default:
        break;
    }
    auto bytes = checked_bytes(v.shape, dtype_size(v.dtype));
    if (!bytes || *bytes > 1 << 18) {
      v.shape = {0, 0};
      bytes = 0;
    }
    auto& block = blocks_.emplace_back(std::make_unique<std::byte[]>(*bytes));
    const auto fill = input_.ConsumeIntegral<uint8_t>();
    for (size_t i = 0; i < *bytes; ++i) block[i] = static_cast<std::byte>(fill * (i + 1));
    const auto begin = input_.ConsumeBytes<uint8_t>(input_.ConsumeIntegralInRange<size_t>(0, 64));
    for (size_t i = 0; i < std::min<size_t>(begin.size(), *bytes); ++i) block[i] = static_cast<std::byte>(begin[i]);
    v.bytes = {block.get(), *bytes};
    return v;
  }

  // A copy in a block of its exact size.
  std::span<const std::byte> keep(std::span<const std::byte> bytes) {
    auto& block = blocks_.emplace_back(std::make_unique<std::byte[]>(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), block.get());
    return {block.get(), bytes.size()};
  }

 private:
  FuzzedDataProvider& input_;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

}  // namespace metal_marlin::fuzz
