#include "quantize/rounding/rounded_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "core/half.h"
#include "core/threads.h"
#include "quantize/blocks/blocks.h"
#include "quantize/group_range.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

constexpr int64_t kBlock = 32;  // of the types with one scale and no minimum
using BlockCodes = std::array<uint8_t, kBlock>;

// The codes with which this scale gives exactly these values, once they are rounded to float16.
std::optional<BlockCodes> codes_with(float scale, const BlockForm& form, std::span<const float> values) {
  BlockCodes codes;
  for (size_t i = 0; i < codes.size(); ++i) {
    const float code = std::nearbyint(values[i] / scale) + static_cast<float>(form.zero);
    if (!(code >= 0 && code < static_cast<float>(1 << form.bits))) return std::nullopt;
    codes[i] = static_cast<uint8_t>(code);
    const float value = scale * (code - static_cast<float>(form.zero));
    if (value != values[i] && f16_to_f32(f32_to_f16(value)) != values[i]) return std::nullopt;
  }
  return codes;
}

struct FoundBlock {
  uint16_t scale = 0;
  BlockCodes codes;
};
// Values that were blocks before, and float16 in between: the block that gives them again. ggml's largest code is the
// last one that both signs have; else the block with the largest scale is taken.
std::optional<FoundBlock> find_block(const BlockForm& form, std::span<const float> values) {
  float largest = 0;
  for (const float v : values) {
    if (std::fabs(v) > std::fabs(largest)) largest = v;
  }
  if (largest == 0 || f16_to_f32(f32_to_f16(largest)) != largest) return std::nullopt;
  const int last = form.zero - 1;
  for (int i = 0; i <= form.zero; ++i) {
    const int code = i == 0 ? last : i;
    for (const float sign : {1.0F, -1.0F}) {
      // The scale is known up to the rounding of the largest value. Most quantizers' scales are positive.
      const uint16_t middle = f32_to_f16(sign * std::fabs(largest) / static_cast<float>(code));
      for (const int step : {0, 1, -1}) {
        const auto scale = static_cast<uint16_t>(middle + step);
        const float value = f16_to_f32(scale);
        if (value == 0 || !std::isfinite(value)) continue;
        if (const auto codes = codes_with(value, form, values)) return FoundBlock{scale, *codes};
      }
    }
  }
  return std::nullopt;
}

bool has_one_scale(const BlockForm& form) {
  return form.block == kBlock && !form.minima && !form.levels;
}

// Writes the row as the blocks that it was before; false, and nothing is written, where it was none.
bool restore_row(const BlockForm& form, std::span<const float> row, std::span<std::byte> out) {
  BlockFields fields(form, std::ssize(row) / kBlock);
  for (size_t b = 0; b < fields.d.size(); ++b) {
    const auto found = find_block(form, row.subspan(b * kBlock, kBlock));
    if (!found) return false;
    fields.d[b] = found->scale;
    std::copy(found->codes.begin(), found->codes.end(), fields.codes.begin() + static_cast<int64_t>(b) * kBlock);
  }
  pack_blocks(form.type, fields, 0, out);
  return true;
}

BlockTensor round_all(const Matrix& rows, GgmlType type) {
  Matrix gram(rows.cols(), rows.cols());
  for (int64_t i = 0; i < gram.rows(); ++i) gram(i, i) = 1;
  BlockRounding options;
  options.feedback = false;                         // no error of a weight can be made up for by another
  if (type == GgmlType::kQ8_0) options.passes = 0;  // nothing is left to gain
  return quantize_to_blocks(rows, gram, type, options);
}

}  // namespace

BlockTensor round_rows(const Matrix& rows, GgmlType type) {
  const auto form = block_form(type);
  if (!form || !has_one_scale(*form) || rows.cols() % kBlock != 0) return round_all(rows, type);
  BlockTensor out{type, rows.rows(), rows.cols(), {}};
  const auto row_bytes = static_cast<size_t>(block_row_bytes(type, rows.cols()));
  out.bytes.resize(static_cast<size_t>(rows.rows()) * row_bytes);
  std::vector<uint8_t> restored(static_cast<size_t>(rows.rows()));
  parallel_for(rows.rows(), [&](int64_t r) {
    const auto at = static_cast<size_t>(r);
    restored[at] = restore_row(*form, rows.row(r), std::span(out.bytes).subspan(at * row_bytes, row_bytes)) ? 1 : 0;
  });
  std::vector<int64_t> others;
  for (int64_t r = 0; r < rows.rows(); ++r) {
    if (restored[static_cast<size_t>(r)] == 0) others.push_back(r);
  }
  if (others.empty()) return out;
  Matrix rest(std::ssize(others), rows.cols());
  for (size_t i = 0; i < others.size(); ++i)
    std::copy_n(rows.row(others[i]).data(), rows.cols(), rest.row(static_cast<int64_t>(i)).data());
  const BlockTensor rounded = round_all(rest, type);
  for (size_t i = 0; i < others.size(); ++i) {
    std::copy_n(rounded.bytes.data() + i * row_bytes, row_bytes,
                out.bytes.data() + static_cast<size_t>(others[i]) * row_bytes);
  }
  return out;
}

QuantizedTensor round_rows(const Matrix& rows, const Grid& grid) {
  RangeOptions options;
  options.method = RangeChoice::kMse;
  options.signed_scales = grid.symmetric;
  return quantize_rtn(rows, group_ranges(rows, grid, options), grid);
}

}  // namespace metal_marlin
