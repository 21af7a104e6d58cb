#include "quantize/blocks/block_scales.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"

namespace metal_marlin {
namespace {

constexpr float kLargestF16 = 65504.0f;

}  // namespace

float nearest_f16(float value) noexcept {
  return round_to_f16(std::clamp(value, -kLargestF16, kLargestF16));
}

float block_scale(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept {
  const float d = f16_to_f32(fields.d[static_cast<size_t>(segment / form.segments())]);
  return form.scales() ? d * static_cast<float>(fields.scales[static_cast<size_t>(segment)]) : d;
}

float block_minimum(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept {
  if (!form.minima) return 0;
  const float m = f16_to_f32(fields.m[static_cast<size_t>(segment / form.segments())]);
  return form.scales() ? -(m * static_cast<float>(fields.minima[static_cast<size_t>(segment)])) : m;
}

TileScales::TileScales(const BlockForm& form, const BlockFields& fields, int64_t columns, int64_t row, int64_t rows)
    : form_(form),
      blocks_(columns / form.block),
      segments_(columns / form.segment),
      row_(row),
      rows_(rows),
      d_(static_cast<size_t>(blocks_ * kLaneRows)),
      dmin_(d_.size()),
      integers_(static_cast<size_t>(segments_ * kLaneRows)),
      minimum_integers_(integers_.size()),
      scales_(integers_.size()),
      minima_(integers_.size()) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const auto from = static_cast<size_t>((row + r) * blocks_ + b);
      d_[at(b, r)] = f16_to_f32(fields.d[from]);
      if (form.minima) dmin_[at(b, r)] = f16_to_f32(fields.m[from]);
    }
    for (int64_t g = 0; g < segments_; ++g) {
      const int64_t from = (row + r) * segments_ + g;
      if (form.scales()) integers_[at(g, r)] = fields.scales[static_cast<size_t>(from)];
      if (form.scales() && form.minima) minimum_integers_[at(g, r)] = fields.minima[static_cast<size_t>(from)];
      scales_[at(g, r)] = block_scale(form, fields, from);
      minima_[at(g, r)] = block_minimum(form, fields, from);
    }
  }
}

Stored TileScales::nearest_scale(int64_t segment, int64_t r, float wanted) const noexcept {
  if (!form_.scales()) return {nearest_f16(wanted), 0};
  const float d = d_[at(segment / form_.segments(), r)];
  if (d == 0.0f || std::isnan(wanted)) return {};
  const float integer = std::clamp(std::nearbyint(wanted / d), static_cast<float>(form_.least_scale),
                                   static_cast<float>(form_.largest_scale));
  return {d * integer, static_cast<int>(integer)};
}

Stored TileScales::nearest_minimum(int64_t segment, int64_t r, float wanted) const noexcept {
  if (!form_.minima) return {};
  if (!form_.scales()) return {nearest_f16(wanted), 0};
  const float dmin = dmin_[at(segment / form_.segments(), r)];
  if (dmin == 0.0f || std::isnan(wanted)) return {};
  const float integer = std::clamp(std::nearbyint(-wanted / dmin), 0.0f, static_cast<float>(kLargestBlockMinimum));
  return {-(dmin * integer), static_cast<int>(integer)};
}

void TileScales::set(int64_t segment, int64_t r, const Stored& scale, const Stored& minimum) noexcept {
  scales_[at(segment, r)] = scale.value;
  minima_[at(segment, r)] = minimum.value;
  integers_[at(segment, r)] = scale.integer;
  minimum_integers_[at(segment, r)] = minimum.integer;
  if (form_.scales()) return;
  d_[at(segment, r)] = scale.value;
  dmin_[at(segment, r)] = minimum.value;
}

void TileScales::set_block(int64_t block, int64_t r, float d, float dmin) noexcept {
  d_[at(block, r)] = d;
  dmin_[at(block, r)] = dmin;
  for (int64_t g = block * form_.segments(); g < (block + 1) * form_.segments(); ++g) {
    scales_[at(g, r)] = d * static_cast<float>(integers_[at(g, r)]);
    if (form_.minima) minima_[at(g, r)] = -(dmin * static_cast<float>(minimum_integers_[at(g, r)]));
  }
}

void TileScales::store(BlockFields& fields) const noexcept {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const auto to = static_cast<size_t>((row_ + r) * blocks_ + b);
      fields.d[to] = f32_to_f16(d_[at(b, r)]);
      if (form_.minima) fields.m[to] = f32_to_f16(dmin_[at(b, r)]);
    }
    for (int64_t g = 0; form_.scales() && g < segments_; ++g) {
      const auto to = static_cast<size_t>((row_ + r) * segments_ + g);
      fields.scales[to] = static_cast<int8_t>(integers_[at(g, r)]);
      if (form_.minima) fields.minima[to] = static_cast<uint8_t>(minimum_integers_[at(g, r)]);
    }
  }
}

}  // namespace metal_marlin
