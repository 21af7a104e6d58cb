#include "quantize/ranges.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "quantize/lanes.h"

namespace metal_marlin {

void validate(const Grid& grid) {
  if (grid.bits < 2 || grid.bits > 8) {
    throw ArgumentError(fmt::format("bits: expected 2 to 8, found {}", grid.bits));
  }
  if (grid.group_size != -1 && grid.group_size <= 0) {
    throw ArgumentError(
        fmt::format("group_size: expected a positive number or -1 (the whole row), found {}", grid.group_size));
  }
  if (grid.minimum && grid.symmetric)
    throw ArgumentError("grid: expected one that is symmetric or has a minimum, found both");
}

void require_finite(const Matrix& matrix, const char* name) {
  const int64_t at = first_not_finite(matrix.data(), matrix.size());
  if (at < 0) return;
  throw NumericError(fmt::format("{}: expected finite values, found {} at [{}, {}]; check the checkpoint", name,
                                 matrix.data()[at], at / matrix.cols(), at % matrix.cols()));
}

}  // namespace metal_marlin
