#include "write/outer_types.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <string>

#include "checkpoint/model_source.h"
#include "core/half.h"
#include "formats/blocks/block_fields.h"
#include "layouts/gguf_types.h"
#include "layouts/layouts.h"
#include "quantize/rounding/rounded_rows.h"

namespace metal_marlin {
namespace {

bool is_rounded(GgmlType type) {
  return block_form(type).has_value();
}

std::vector<GgmlType> outer_type_list() {
  std::vector<GgmlType> types = {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16};
  for (const BlockForm& form : kBlockForms) types.push_back(form.type);
  return types;
}

GgmlType usual_type(const Layout& layout, bool head, int64_t columns) {
  if (layout.widths().empty()) return *layout.gguf_file_type() == 1 ? GgmlType::kF16 : GgmlType::kBF16;
  const Grid grid = *layout.own_grid();
  const GgmlType main = *gguf_type(grid);
  if (main == GgmlType::kQ8_0) return columns % 32 == 0 ? main : GgmlType::kF16;
  if (head) {
    if (columns % 256 == 0) return GgmlType::kQ6_K;
    return columns % 32 == 0 ? GgmlType::kQ8_0 : GgmlType::kF16;
  }
  const LinearPlace place{.kind = LinearKind::kQ, .fused_qkv = false, .layer = 0, .layers = 1, .columns = columns};
  const auto fitting = layout.own_grid(place, grid.bits);
  if (!fitting) return GgmlType::kF16;
  return *gguf_type(*fitting);
}

}  // namespace

const std::vector<std::string>& outer_type_names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const GgmlType type : outer_type_list()) names.emplace_back(ggml_type_info(type).name);
    return names;
  }();
  return kNames;
}

std::optional<GgmlType> outer_type_named(const std::string& name) {
  for (const GgmlType type : outer_type_list()) {
    if (ggml_type_info(type).name == name) return type;
  }
  return std::nullopt;
}

std::optional<GgmlType> outer_type(const ModelSource& source, const Layout& layout, const OuterTypes& asked,
                                   const std::string& tensor) {
  const bool head = tensor == source.head_tensor();
  if (layout.container() != ContainerKind::kGguf || (!head && tensor != source.family().embedding)) return std::nullopt;
  if (head && asked.embedding && tensor == source.family().embedding) {
    throw ArgumentError("embedding-type", fmt::format("--embedding-type: the embedding of {} is its head, whose type "
                                                      "--head-type sets",
                                                      source.path()));
  }
  const int64_t columns = source.config().hidden_size;
  const std::optional<GgmlType>& wanted = head ? asked.head : asked.embedding;
  if (!wanted) return usual_type(layout, head, columns);
  const GgmlTypeInfo info = ggml_type_info(*wanted);
  if (columns % info.block != 0) {
    throw ArgumentError(head ? "head-type" : "embedding-type",
                        fmt::format("--{}-type {}: its blocks of {} do not divide the {} columns of {}; choose a type "
                                    "with blocks of 32 (Q8_0), or F16",
                                    head ? "head" : "embedding", info.name, info.block, columns, tensor));
  }
  return *wanted;
}

std::optional<Grid> outer_grid(const ModelSource& source, const Layout& layout, const OuterTypes& asked,
                               int64_t group_size, const std::string& tensor) {
  const bool outer = tensor == source.family().embedding || tensor == source.head_tensor();
  if (!layout.holds_embedding() || !asked.bits || !outer) return std::nullopt;
  const int64_t columns = source.config().hidden_size;
  for (const int64_t group : {group_size, int64_t{64}, int64_t{32}}) {
    if (group <= 0 || !layout.refusal(source.config().vocab_size, columns, group, *asked.bits).empty()) continue;
    return Grid{.bits = *asked.bits, .symmetric = false, .group_size = group, .minimum = true};
  }
  return std::nullopt;
}

bool stored_in(const ModelSource& source, const std::string& tensor, GgmlType type) {
  if (source.format() != "gguf") return false;
  const auto tensors = source.tensors();
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const CheckpointTensor& t) { return t.name == tensor; });
  return found != tensors.end() && found->stored_as == ggml_type_info(type).name;
}

void round_outer_rows(GgmlType type, Matrix& rows) {
  if (is_rounded(type)) {
    rows = dequantize(round_rows(rows, type));
  } else if (type == GgmlType::kF16) {
    for (float& v : rows.values()) v = f16_to_f32(f32_to_f16(v));
  } else if (type == GgmlType::kBF16) {
    for (float& v : rows.values()) v = bf16_to_f32(f32_to_bf16(v));
  }
}

}  // namespace metal_marlin
