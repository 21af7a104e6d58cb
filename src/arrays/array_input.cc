#include "arrays/array_input.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/border.h"
#include "core/checked.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

constexpr int64_t kBatch = 4096;  // tokens, few enough that float32 sums of a Gram matrix are exact enough
constexpr int64_t kTile = 64;     // of a transposition

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};
float to_float(float v) noexcept {
  return v;
}
float to_float(double v) noexcept {
  return static_cast<float>(v);
}
float to_float(Half v) noexcept {
  return f16_to_f32(v.bits);
}
float to_float(Brain v) noexcept {
  return bf16_to_f32(v.bits);
}

// fn(typed pointer) for a float array.
template <typename Fn>
void with_floats(const ArrayView& array, const Fn& fn) {
  switch (array.type) {
    case ElementType::kF16:
      fn(static_cast<const Half*>(array.data));
      return;
    case ElementType::kBF16:
      fn(static_cast<const Brain*>(array.data));
      return;
    case ElementType::kF64:
      fn(static_cast<const double*>(array.data));
      return;
    default:
      fn(static_cast<const float*>(array.data));
      return;
  }
}

// out[c * rows + r] = in[r, c]; strides in elements.
template <typename T, typename To, typename Convert>
void transpose_strided(const T* in, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, To* out,
                       const Convert& convert) {
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  const int64_t column_tiles = (columns + kTile - 1) / kTile;
  parallel_for(row_tiles * column_tiles, [&](int64_t tile) {
    const int64_t first_row = tile / column_tiles * kTile;
    const int64_t first_column = tile % column_tiles * kTile;
    const int64_t end_row = std::min(first_row + kTile, rows);
    const int64_t end_column = std::min(first_column + kTile, columns);
    for (int64_t c = first_column; c < end_column; ++c) {
      for (int64_t r = first_row; r < end_row; ++r) out[c * rows + r] = convert(in[r * row_stride + c * column_stride]);
    }
  });
}

[[noreturn]] void not_finite(const char* name, float value, const std::string& where) {
  throw NumericError(fmt::format("{}: expected finite float32 values, found {} at {}", name, value, where));
}

}  // namespace

size_t element_size(ElementType type) noexcept {
  switch (type) {
    case ElementType::kBool:
    case ElementType::kI8:
    case ElementType::kU8:
      return 1;
    case ElementType::kF16:
    case ElementType::kBF16:
      return 2;
    case ElementType::kU32:
    case ElementType::kF32:
      return 4;
    case ElementType::kF64:
      break;
  }
  return 8;
}

namespace {
constexpr std::pair<ElementType, const char*> kNames[] = {
    {ElementType::kBool, "bool"},   {ElementType::kI8, "int8"},       {ElementType::kU32, "uint32"},
    {ElementType::kF16, "float16"}, {ElementType::kBF16, "bfloat16"}, {ElementType::kF32, "float32"},
    {ElementType::kF64, "float64"}, {ElementType::kU8, "uint8"}};
}  // namespace

const char* element_name(ElementType type) noexcept {
  for (const auto& [value, name] : kNames) {
    if (value == type) return name;
  }
  return "?";
}

ElementType parse_element_type(const std::string& name) {
  for (const auto& [value, known] : kNames) {
    if (name == known) return value;
  }
  throw ArgumentError(fmt::format(
      "element type: expected bool, int8, uint8, uint32, float16, bfloat16, float32 or float64, found \"{}\"", name));
}

void require_elements(size_t elements, const std::vector<int64_t>& shape) {
  if (checked_bytes(shape, 1) == elements) return;
  throw ArgumentError(fmt::format("array: expected a shape of {} as there are values, found {}",
                                  counted(elements, "element"), shape_string(shape)));
}

Array::Array(ElementType element, std::vector<int64_t> dimensions) try : type(element), shape(std::move(dimensions)) {
  const auto size = checked_bytes(shape, element_size(element));
  if (!size)
    throw ArgumentError(fmt::format("array: expected dimensions that fit in memory, found {}", shape_string(shape)));
  bytes.resize(*size);
} catch (...) {
  rethrow_as_error("Array");
}

void expect_shape(const ArrayView& array, const char* name, const std::vector<int64_t>& sizes, const char* shape) {
  bool good = array.shape.size() == sizes.size() && checked_bytes(array.shape, element_size(array.type)).has_value();
  for (size_t i = 0; good && i < sizes.size(); ++i) {
    good = sizes[i] < 0 ? array.shape[i] > 0 : array.shape[i] == sizes[i];
  }
  if (good) return;
  std::string wanted;
  for (const int64_t s : sizes)
    wanted += (wanted.empty() ? "" : ", ") + (s < 0 ? std::string("any") : std::to_string(s));
  throw ArgumentError(name, fmt::format("{}: expected shape {} = [{}], not empty, found {}", name, shape, wanted,
                                        shape_string(array.shape)));
}

void expect_float(const ArrayView& array, const char* name) {
  if (array.type == ElementType::kF16 || array.type == ElementType::kBF16 || array.type == ElementType::kF32 ||
      array.type == ElementType::kF64) {
    return;
  }
  throw ArgumentError(name, fmt::format("{}: expected float16, bfloat16, float32 or float64, found {}", name,
                                        element_name(array.type)));
}

void expect_type(const ArrayView& array, const char* name, ElementType type) {
  if (array.type != type) {
    throw ArgumentError(name,
                        fmt::format("{}: expected {}, found {}", name, element_name(type), element_name(array.type)));
  }
}

void expect_group_size(int64_t group_size, bool whole_row, const char* name) {
  if ((group_size >= 1 && group_size <= kMostGroupSize) || (whole_row && group_size == -1)) return;
  throw ArgumentError(name, fmt::format("{}: expected 1 to {}{}, found {}", name, kMostGroupSize,
                                        whole_row ? ", or -1 for one group per row" : "", group_size));
}

std::vector<int64_t> strides_of(const ArrayView& array) {
  if (!array.strides.empty()) return array.strides;
  std::vector<int64_t> strides(array.shape.size(), 1);
  for (size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * array.shape[i];
  return strides;
}

Matrix load_transposed(const ArrayView& array, const char* name) {
  const std::vector<int64_t> strides = strides_of(array);
  const int64_t rows = array.shape[0];
  Matrix out(array.shape[1], rows);
  with_floats(array, [&](const auto* in) {
    transpose_strided(in, rows, out.rows(), strides[0], strides[1], out.data(), [](auto v) { return to_float(v); });
  });
  if (const int64_t at = first_not_finite(out.data(), out.size()); at >= 0) {
    not_finite(name, out.data()[at], fmt::format("[{}, {}]", at % rows, at / rows));
  }
  return out;
}

Matrix load_matrix(const ArrayView& array, const char* name) {
  const std::vector<int64_t> strides = strides_of(array);
  Matrix out(array.shape[0], array.shape[1]);
  with_floats(array, [&](const auto* in) {
    parallel_for((out.rows() + kTile - 1) / kTile, [&](int64_t tile) {
      for (int64_t r = tile * kTile; r < std::min((tile + 1) * kTile, out.rows()); ++r) {
        for (int64_t c = 0; c < out.cols(); ++c) out(r, c) = to_float(in[r * strides[0] + c * strides[1]]);
      }
    });
  });
  if (const int64_t at = first_not_finite(out.data(), out.size()); at >= 0) {
    not_finite(name, out.data()[at], fmt::format("[{}, {}]", at / out.cols(), at % out.cols()));
  }
  return out;
}

std::vector<float> load_vector(const ArrayView& array, const char* name) {
  const int64_t stride = strides_of(array)[0];
  std::vector<float> out(static_cast<size_t>(array.shape[0]));
  with_floats(array, [&](const auto* in) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = to_float(in[static_cast<int64_t>(i) * stride]);
  });
  if (const int64_t at = first_not_finite(out.data(), array.shape[0]); at >= 0) {
    not_finite(name, out[static_cast<size_t>(at)], fmt::format("[{}]", at));
  }
  return out;
}

std::vector<uint8_t> load_bytes_transposed(const ArrayView& array) {
  const std::vector<int64_t> strides = strides_of(array);
  std::vector<uint8_t> out(static_cast<size_t>(array.shape[0] * array.shape[1]));
  transpose_strided(static_cast<const uint8_t*>(array.data), array.shape[0], array.shape[1], strides[0], strides[1],
                    out.data(), [](uint8_t v) { return v; });
  return out;
}

std::vector<uint32_t> load_words(const ArrayView& array) {
  const std::vector<int64_t> strides = strides_of(array);
  std::vector<uint32_t> out;
  out.reserve(static_cast<size_t>(array.shape[0] * array.shape[1]));
  const auto* in = static_cast<const uint32_t*>(array.data);
  for (int64_t r = 0; r < array.shape[0]; ++r) {
    for (int64_t c = 0; c < array.shape[1]; ++c) out.push_back(in[r * strides[0] + c * strides[1]]);
  }
  return out;
}

int64_t expect_activations(const ArrayView& activations, const char* name) {
  expect_float(activations, name);
  if (activations.shape.size() != 2 && activations.shape.size() != 3) {
    throw ArgumentError(
        fmt::format("{}: expected shape [B, T, K] or [tokens, K], found {}", name, shape_string(activations.shape)));
  }
  const std::vector<int64_t> any(activations.shape.size(), -1);
  expect_shape(activations, name, any, any.size() == 3 ? "[B, T, K]" : "[tokens, K]");
  return activations.shape.back();
}

int64_t expect_layer(const ArrayView& weights, const ArrayView& activations) {
  expect_float(weights, "weights");
  expect_shape(weights, "weights", {-1, -1}, "[K, N]");
  const int64_t k = weights.shape[0];
  if (const int64_t width = expect_activations(activations, "activations"); width != k) {
    throw ArgumentError("activations",
                        fmt::format("activations: expected in_features {} as in weights [K, N] = [{}, {}], found {}", k,
                                    k, weights.shape[1], width));
  }
  return k;
}

int64_t token_count(const ArrayView& activations) {
  return activations.shape.size() == 3 ? activations.shape[0] * activations.shape[1] : activations.shape[0];
}

void for_each_batch(const ArrayView& activations, const char* name,
                    const std::function<void(const float* rows, int64_t count)>& fn) {
  const std::vector<int64_t> strides = strides_of(activations);
  const int64_t width = activations.shape.back();
  const bool cube = activations.shape.size() == 3;
  const int64_t inner = cube ? activations.shape[1] : activations.shape[0];  // tokens of a sequence
  const int64_t tokens = token_count(activations);
  const int64_t token_stride = strides[strides.size() - 2];
  const int64_t sequence_stride = cube ? strides[0] : 0;
  const bool whole = activations.type == ElementType::kF32 && (width == 1 || strides.back() == 1) &&
                     (inner == 1 || token_stride == width) &&
                     (!cube || activations.shape[0] == 1 || sequence_stride == inner * width);
  Matrix copy(whole ? 0 : std::min(kBatch, tokens), width);
  for (int64_t first = 0; first < tokens; first += kBatch) {
    const int64_t count = std::min(kBatch, tokens - first);
    const float* rows = copy.data();
    if (whole) {
      rows = static_cast<const float*>(activations.data) + first * width;
    } else {
      with_floats(activations, [&](const auto* in) {
        parallel_for((count + kTile - 1) / kTile, [&](int64_t tile) {
          for (int64_t r = tile * kTile; r < std::min((tile + 1) * kTile, count); ++r) {
            const int64_t token = first + r;
            const auto* from = in + token / inner * sequence_stride + token % inner * token_stride;
            for (int64_t c = 0; c < width; ++c) copy(r, c) = to_float(from[c * strides.back()]);
          }
        });
      });
    }
    if (const int64_t at = first_not_finite(rows, count * width); at >= 0) {
      const int64_t token = first + at / width;
      not_finite(name, rows[at],
                 cube ? fmt::format("[{}, {}, {}]", token / inner, token % inner, at % width)
                      : fmt::format("[{}, {}]", token, at % width));
    }
    fn(rows, count);
  }
}

Array copy_array(ElementType type, std::vector<int64_t> shape, const void* data) {
  Array array(type, std::move(shape));
  if (!array.bytes.empty()) std::memcpy(array.bytes.data(), data, array.bytes.size());
  return array;
}

Array to_type(const Matrix& m, ElementType type, const char* name, const char* type_name) {
  if (type != ElementType::kF16 && type != ElementType::kBF16 && type != ElementType::kF32 &&
      type != ElementType::kF64) {
    throw ArgumentError(
        fmt::format("{}: expected float16, bfloat16, float32 or float64, found {}", type_name, element_name(type)));
  }
  Array out(type, {m.rows(), m.cols()});
  const int64_t columns = m.cols();
  parallel_for((m.rows() + kTile - 1) / kTile, [&](int64_t tile) {
    const int64_t first = tile * kTile;
    const float* from = m.row(first).data();
    const int64_t count = (std::min(first + kTile, m.rows()) - first) * columns;
    const auto require = [&](const auto& holds) {
      for (int64_t i = 0; i < count; ++i) {
        if (holds(i)) continue;
        throw NumericError(
            fmt::format("{}: expected values that {} can hold, found {}", name, element_name(type), from[i]));
      }
    };
    if (type == ElementType::kF64) {
      std::copy_n(from, count, out.as<double>() + first * columns);
    } else if (type == ElementType::kF32) {
      std::copy_n(from, count, out.as<float>() + first * columns);
    }
    if (type == ElementType::kF32 || type == ElementType::kF64)
      return require([&](int64_t i) { return std::isfinite(from[i]); });
    uint16_t* to = out.as<uint16_t>() + first * columns;
    const bool half = type == ElementType::kF16;
    (half ? kernels().f32_to_f16 : kernels().f32_to_bf16)(from, count, to);
    const uint16_t exponent = half ? 0x7c00 : 0x7f80;  // of Inf and NaN
    require([&](int64_t i) { return (to[i] & exponent) != exponent; });
  });
  return out;
}

}  // namespace metal_marlin
