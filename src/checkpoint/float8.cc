#include "checkpoint/float8.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/threads.h"
#include "formats/text.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr const char* kScales[] = {".weight_scale_inv", ".weight_scale"};
constexpr const char* kOthers[] = {".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point",
                                   ".activation_scale"};
constexpr const char* kCacheScales[] = {".k_scale", ".v_scale", ".q_scale"};

float decode_e4m3(uint8_t byte) noexcept {
  const int exponent = byte >> 3 & 15;
  const int mantissa = byte & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return byte >> 7 != 0 ? -size : size;
}

const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> values{};
    for (size_t i = 0; i < values.size(); ++i) values[i] = decode_e4m3(static_cast<uint8_t>(i));
    return values;
  }();
  return kValues;
}

int64_t parts_of(int64_t size, int64_t block) noexcept {
  return (size + block - 1) / block;
}

// The shape of the scale as rows and columns of blocks.
std::array<int64_t, 2> scale_shape(const TensorView& scale, int64_t rows) noexcept {
  if (scale.shape.size() == 2) return {scale.shape[0], scale.shape[1]};
  if (scale.shape.size() == 1 && scale.shape[0] == rows) return {rows, 1};
  return {1, scale.elements()};
}

// Sets the sizes of blocks by the shape of the scale; false where it is none.
bool set_blocks(const PackedConfig& config, int64_t rows, int64_t columns, FloatScale& scale) noexcept {
  const auto [down, across] = scale_shape(*scale.values, rows);
  const auto set = [&](int64_t block_rows, int64_t block_columns) {
    scale.block_rows = block_rows;
    scale.block_columns = block_columns;
    return true;
  };
  if (config.block_rows > 0 && down == parts_of(rows, config.block_rows) &&
      across == parts_of(columns, config.block_columns))
    return set(config.block_rows, config.block_columns);
  if (scale.values->shape.size() > 2) return false;
  if (down == 1 && across == 1) return set(rows, columns);
  return down == rows && across > 0 && columns % across == 0 && set(1, columns / across);
}

}  // namespace

void find_float_scale(const std::string& name, const StoredEntries& raw, const PackedConfig& config, StoredEntry& e) {
  const std::string module = module_of(name, ".weight");
  if (e.main->dtype != DType::kF8E4M3 || module.empty()) return;
  for (const char* suffix : kScales) {
    if (e.scale.values == nullptr) e.scale.values = part_of(raw, module + suffix);
  }
  const std::string where = fmt::format("{}: tensor {}", e.file->path(), escaped(name));
  if (e.scale.values == nullptr) {
    throw FormatError(
        fmt::format("{}: expected a scale, weight_scale_inv or weight_scale, beside a weight in F8_E4M3, found none; "
                    "fetch the model "
                    "again",
                    where));
  }
  if (e.shape.size() != 2 || e.shape[0] < 1 || e.shape[1] < 1)
    throw FormatError(fmt::format("{}: expected F8_E4M3 [out, in], found {}", where, shape_string(e.shape)));
  const DType type = e.scale.values->dtype;
  if (type != DType::kF32 && type != DType::kF16 && type != DType::kBF16) {
    throw FormatError(fmt::format("{}: its scale: expected F32, F16 or BF16, found {}", where, dtype_name(type)));
  }
  if (set_blocks(config, e.shape[0], e.shape[1], e.scale)) return;
  const std::string block =
      config.block_rows == 0 ? "no blocks, by the config"
                             : fmt::format("one for each block of [{}, {}]", config.block_rows, config.block_columns);
  throw FormatError(
      fmt::format("{}: its scale: expected one for {}, one for each row, groups that divide a row, or {}, "
                  "found {}",
                  where, shape_string(e.shape), block, shape_string(e.scale.values->shape)));
}

bool is_float_scale(const std::string& name, const StoredEntries& raw, const PackedConfig& config) {
  const auto beside_weight = [&](const char* suffix, bool of_float8) {
    const std::string module = module_of(name, suffix);
    const TensorView* weight = module.empty() ? nullptr : part_of(raw, module + ".weight");
    return weight != nullptr && (!of_float8 || weight->dtype == DType::kF8E4M3);
  };
  if (std::ranges::any_of(kScales, [&](const char* s) { return beside_weight(s, true); })) return true;
  if (!config.other_scales) return false;
  return std::ranges::any_of(kOthers, [&](const char* s) { return beside_weight(s, false); }) ||
         std::ranges::any_of(kCacheScales, [&](const char* s) { return name.ends_with(s); });
}

void float8_to_f32(const StoredEntry& e, int64_t first, int64_t rows, float* out) {
  const int64_t columns = e.shape[1];
  const auto [down, across] = scale_shape(*e.scale.values, e.shape[0]);
  TensorView scale = *e.scale.values;
  scale.shape = {down, across};
  const std::vector<float> scales =
      read_group_floats(scale, down, across, fmt::format("{}: tensor {}", e.file->path(), e.main->name), "scale");
  const std::array<float, 256>& values = e4m3_values();
  parallel_for(rows, [&](int64_t r) {
    const int64_t row = first + r;
    const std::byte* from = e.main->bytes.data() + row * columns;
    const float* of_row = scales.data() + row / e.scale.block_rows * across;
    for (int64_t k = 0; k < columns; ++k) {
      out[r * columns + k] = values[std::to_integer<uint8_t>(from[k])] * of_row[k / e.scale.block_columns];
    }
  });
}

}  // namespace metal_marlin
