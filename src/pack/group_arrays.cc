#include "pack/group_arrays.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "pack/nibbles.h"

namespace metal_marlin {

void check_packable(const QuantizedTensor& t, const std::string& name, const char* layout) {
  if (t.bits != 4) throw ArgumentError(fmt::format("{}: {} bits, the {} layout holds 4", name, t.bits, layout));
  if (t.out_features <= 0 || t.in_features <= 0 || t.group_size <= 0 || t.in_features % t.group_size != 0) {
    throw ArgumentError(
        fmt::format("{}: the {} layout needs a group size that divides in_features; found [{}, {}], group {}", name,
                    layout, t.out_features, t.in_features, t.group_size));
  }
  const auto out = static_cast<uint64_t>(t.out_features);
  const auto codes = checked_mul(out, static_cast<uint64_t>(t.in_features));
  const uint64_t groups = out * static_cast<uint64_t>(t.groups());
  if (!codes || t.codes.size() != *codes || t.scales.size() != groups || t.zeros.size() != groups) {
    throw ArgumentError(fmt::format("{}: shape [{}, {}] in groups of {}, but {} codes, {} scales and {} zeros", name,
                                    t.out_features, t.in_features, t.group_size, t.codes.size(), t.scales.size(),
                                    t.zeros.size()));
  }
  const auto top = std::max_element(t.zeros.begin(), t.zeros.end());
  if (*top > 15) throw ArgumentError(fmt::format("{}: zero {} above 15", name, *top));
  for (const uint16_t scale : t.scales) {
    if (!std::isfinite(f16_to_f32(scale))) throw ArgumentError(fmt::format("{}: a scale is not finite", name));
  }
}

void refuse_codes(const std::string& name) {
  throw ArgumentError(fmt::format("{}: a code is above 15", name));
}

void expect_part(const TensorView& part, DType dtype, std::span<const int64_t> shape, const std::string& name,
                 const char* what) {
  const bool same_words =
      (dtype == DType::kI32 || dtype == DType::kU32) && (part.dtype == DType::kI32 || part.dtype == DType::kU32);
  const auto bytes = checked_bytes(shape, dtype_size(dtype));
  if ((part.dtype != dtype && !same_words) || !std::ranges::equal(part.shape, shape) || !bytes ||
      part.bytes.size() != *bytes) {
    throw FormatError(fmt::format("{}: {}: expected {} {}, found {} {} in {} bytes", name, what, dtype_name(dtype),
                                  shape_string(shape), dtype_name(part.dtype), shape_string(part.shape),
                                  part.bytes.size()));
  }
}

int64_t explicit_group_size(int64_t group_size, int64_t in_features, const std::string& name) {
  const int64_t group = group_size < 0 ? in_features : group_size;
  if (group == 0 || in_features % group != 0) {
    throw FormatError(fmt::format("{}: group size {} does not divide in_features {}", name, group_size, in_features));
  }
  return group;
}

OwnedTensor new_part(std::string name, DType dtype, std::vector<int64_t> shape) {
  uint64_t bytes = dtype_size(dtype);
  for (const int64_t d : shape) bytes *= static_cast<uint64_t>(d);
  return {std::move(name), dtype, std::move(shape), Buffer(bytes)};
}

OwnedTensor pack_scales(const QuantizedTensor& t, std::string part) {
  const int64_t groups = t.groups();
  OwnedTensor scales = new_part(std::move(part), DType::kF16, {groups, t.out_features});
  for (int64_t j = 0; j < groups; ++j) {
    for (int64_t n = 0; n < t.out_features; ++n) {
      store(scales.bytes.data() + 2 * (j * t.out_features + n), t.scales[static_cast<size_t>(n * groups + j)]);
    }
  }
  return scales;
}

void unpack_scales(const TensorView& scales, QuantizedTensor& t, const std::string& name) {
  const int64_t groups = t.groups();
  t.scales.resize(static_cast<size_t>(groups * t.out_features));
  for (int64_t j = 0; j < groups; ++j) {
    for (int64_t n = 0; n < t.out_features; ++n) {
      const auto scale = load<uint16_t>(scales.bytes.data() + 2 * (j * t.out_features + n));
      if (!std::isfinite(f16_to_f32(scale))) {
        throw FormatError(fmt::format("{}: scales: [{}, {}] is not finite", name, j, n));
      }
      t.scales[static_cast<size_t>(n * groups + j)] = scale;
    }
  }
}

}  // namespace metal_marlin
