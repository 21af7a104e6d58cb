#include "run/finished_check.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/counted.h"
#include "families/tensor_names.h"

namespace metal_marlin {
namespace {

// What a fold may change in a layer, with the number of values of each.
std::map<std::string, int64_t> changeable(const ModelSource& source, int64_t layer) {
  std::map<std::string, int64_t> out;
  for (const NormKind kind : {NormKind::kInput, NormKind::kPreFeedForward}) {
    const std::string name = source.norm_name(layer, kind);
    if (!name.empty()) out[name] = source.config().hidden_size;
  }
  for (const LinearSlot& slot : source.linears(layer)) {
    out[slot.weight] = std::max(out[slot.weight], (slot.first_row + slot.rows) * slot.columns);
    if (slot.has_bias) out[bias_name(slot.weight)] = std::max(out[bias_name(slot.weight)], slot.first_row + slot.rows);
  }
  return out;
}

}  // namespace

void check_finished(const ModelSource& source, int64_t layer, const LayerTensors& tensors, const BlockRecord& record,
                    const FinishedBlock& finished, const std::string& place) {
  const auto fail = [&](const std::string& name, const std::string& expected, const std::string& found) {
    throw FormatError(
        fmt::format("{}: {}: expected {}, found {}; the interrupted run is damaged: run again with --no-resume", place,
                    name, expected, found));
  };
  for (const QuantizedWeight& w : tensors.quantized) {
    if (w.grid.block) {
      const auto found = finished.blocks.find(w.name);
      if (found == finished.blocks.end()) fail(w.name, "its blocks", "none");
      const auto text = [](GgmlType type, int64_t rows, int64_t columns) {
        return fmt::format("[{}, {}] in {}", rows, columns, ggml_type_info(type).name);
      };
      const BlockTensor& b = found->second;
      const std::string expected = text(*w.grid.block, w.rows, w.columns);
      if (const std::string is = text(b.type, b.out_features, b.in_features); is != expected)
        fail(w.name, expected, is);
      continue;
    }
    const auto it = finished.quantized.find(w.name);
    if (it == finished.quantized.end()) fail(w.name, "its codes", "none");
    const QuantizedTensor& q = it->second;
    const auto text = [](int64_t rows, int64_t columns, const Grid& grid) {
      return fmt::format("[{}, {}] in {} bits, groups of {}, {}, scales in {}", rows, columns, grid.bits,
                         grid.group_of(columns),
                         grid.symmetric ? "symmetric"
                         : grid.minimum ? "with minima"
                                        : "asymmetric",
                         grid.scale_type == ScaleType::kF16 ? "float16" : "bfloat16");
    };
    const std::string expected = text(w.rows, w.columns, w.grid);
    const std::string found = text(q.out_features, q.in_features, q.grid());
    if (expected != found) fail(w.name, expected, found);
  }
  if (const size_t found = finished.quantized.size() + finished.blocks.size(); found != tensors.quantized.size())
    fail("quantized", counted(tensors.quantized.size(), "linear"), fmt::format("{}", found));
  std::set<std::string> listed(record.changed.begin(), record.changed.end());
  const auto sizes = changeable(source, layer);
  for (const OwnedTensor& t : finished.changed) {
    const auto size = sizes.find(t.name);
    if (size == sizes.end() || finished.quantized.count(t.name) + finished.blocks.count(t.name) > 0 ||
        listed.erase(t.name) == 0)
      fail(t.name, "a tensor that was folded into", "another");
    if (t.dtype != DType::kF16 || t.view().elements() != size->second) {
      fail(t.name, fmt::format("{} in F16", counted(size->second, "value")),
           fmt::format("{} in {}", t.view().elements(), dtype_name(t.dtype)));
    }
  }
  if (!listed.empty()) fail(*listed.begin(), "the tensor that its report lists as changed", "none");
}

}  // namespace metal_marlin
