#include "pack/ggml_codes.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "core/threads.h"
#include "pack/group_arrays.h"

namespace metal_marlin {
namespace {

constexpr int64_t kGroup = 32;
constexpr int64_t kTileRows = 16;  // of a task

bool is_of_codes(const BlockForm& form) noexcept {
  return form.block == kGroup && !form.levels && !form.scales();
}

Grid nearest_grid(const BlockForm& form) noexcept {
  return {.bits = form.bits, .symmetric = !form.minima, .group_size = form.segment, .minimum = form.minima};
}

// The numbers of rows first .. first + rows - 1, for which `tensor` is the whole.
BlockFields fields_of(const QuantizedTensor& t, const BlockForm& form, int64_t first, int64_t rows) {
  BlockFields fields(form, rows * t.groups());
  const auto from = static_cast<size_t>(first * t.in_features);
  std::copy_n(t.codes.begin() + static_cast<int64_t>(from), rows * t.in_features, fields.codes.begin());
  std::copy_n(t.scales.begin() + first * t.groups(), rows * t.groups(), fields.d.begin());
  if (form.minima) std::copy_n(t.minima.begin() + first * t.groups(), rows * t.groups(), fields.m.begin());
  return fields;
}

}  // namespace

std::optional<Grid> grid_of_type(GgmlType type) noexcept {
  const auto form = block_form(type);
  if (!form) return std::nullopt;
  Grid grid = nearest_grid(*form);
  if (!is_of_codes(*form)) grid.block = type;
  return grid;
}

std::optional<GgmlType> type_of_grid(const Grid& grid) noexcept {
  for (const BlockForm& form : kBlockForms) {
    if (is_of_codes(form) && nearest_grid(form) == grid) return form.type;
  }
  return std::nullopt;
}

BlockTensor pack_to_blocks(const QuantizedTensor& t, const std::string& name) {
  const auto type = type_of_grid(t.grid());
  if (!type || t.in_features % kGroup != 0 || !t.group_index.empty()) {
    throw ArgumentError(fmt::format("{}: no type of ggml holds {} bits in groups of {} ({}{}) of {} inputs", name,
                                    t.bits, t.group_size, t.symmetric ? "symmetric" : "asymmetric",
                                    t.group_index.empty() ? "" : ", in act order", t.in_features));
  }
  const BlockForm form = *block_form(*type);
  validate(t, name);
  const auto other = [&](uint8_t zero) { return zero != form.zero; };
  if (!form.minima && std::any_of(t.zeros.begin(), t.zeros.end(), other))
    throw ArgumentError(fmt::format("{}: {} has no zeros other than {}", name, ggml_type_info(*type).name, form.zero));
  BlockTensor out{*type, t.out_features, t.in_features, {}};
  const int64_t row_bytes = block_row_bytes(*type, t.in_features);
  out.bytes.resize(static_cast<size_t>(t.out_features * row_bytes));
  parallel_for((t.out_features + kTileRows - 1) / kTileRows, [&](int64_t tile) {
    const int64_t first = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, t.out_features - first);
    pack_blocks(
        *type, fields_of(t, form, first, rows), 0,
        std::span(out.bytes).subspan(static_cast<size_t>(first * row_bytes), static_cast<size_t>(rows * row_bytes)));
  });
  return out;
}

QuantizedTensor unpack_blocks_to_codes(GgmlType type, int64_t out_features, int64_t in_features,
                                       std::span<const std::byte> blocks, const std::string& name) {
  const auto form = block_form(type);
  const auto grid = grid_of_type(type);
  if (!grid || grid->block)
    throw ArgumentError(fmt::format("{}: blocks of {} are no codes on an even grid", name, ggml_type_info(type).name));
  QuantizedTensor t;
  t.out_features = out_features;
  t.in_features = in_features;
  t.group_size = kGroup;
  t.bits = grid->bits;
  t.symmetric = grid->symmetric;
  const auto groups = static_cast<size_t>(out_features * t.groups());
  t.codes.resize(static_cast<size_t>(out_features * in_features));
  t.scales.resize(groups);
  t.zeros.assign(groups, static_cast<uint8_t>(form->zero));
  if (form->minima) t.minima.resize(groups);
  const int64_t row_bytes = block_row_bytes(type, in_features);
  parallel_for((out_features + kTileRows - 1) / kTileRows, [&](int64_t tile) {
    const int64_t first = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, out_features - first);
    const BlockFields fields = unpack_blocks(
        type, blocks.subspan(static_cast<size_t>(first * row_bytes), static_cast<size_t>(rows * row_bytes)));
    std::copy(fields.codes.begin(), fields.codes.end(), t.codes.begin() + first * in_features);
    std::copy(fields.d.begin(), fields.d.end(), t.scales.begin() + first * t.groups());
    std::copy(fields.m.begin(), fields.m.end(), t.minima.begin() + (form->minima ? first * t.groups() : 0));
  });
  validate(t, name);
  return t;
}

}  // namespace metal_marlin
