#include "core/dtype.h"

#include <array>

namespace metal_marlin {
namespace {

struct Row {
  std::string_view name;
  size_t size;
};
// In the order of the enumeration.
constexpr std::array<Row, 15> kRows = {{{"BOOL", 1},
                                        {"U8", 1},
                                        {"I8", 1},
                                        {"U16", 2},
                                        {"I16", 2},
                                        {"U32", 4},
                                        {"I32", 4},
                                        {"U64", 8},
                                        {"I64", 8},
                                        {"F8_E4M3", 1},
                                        {"F8_E5M2", 1},
                                        {"F16", 2},
                                        {"BF16", 2},
                                        {"F32", 4},
                                        {"F64", 8}}};

}  // namespace

size_t dtype_size(DType dtype) noexcept {
  return kRows[static_cast<size_t>(dtype)].size;
}

std::string_view dtype_name(DType dtype) noexcept {
  return kRows[static_cast<size_t>(dtype)].name;
}

std::optional<DType> dtype_from_name(std::string_view name) noexcept {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace metal_marlin
