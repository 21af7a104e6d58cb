#include "write/write_job.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "quantize/append_rows.h"
#include "quantize/rounding/rounded_rows.h"
#include "write/outer_types.h"
namespace metal_marlin {
namespace {

// Returns the type in which ModelSource::load_stored gives a tensor.
DType delivered_type(const CheckpointTensor& tensor) {
  const std::optional<DType> type = dtype_from_name(tensor.stored_as);
  if (!type || *type == DType::kF8E4M3 || *type == DType::kF8E5M2) return DType::kF16;  // blocks: dequantized
  return *type == DType::kF64 ? DType::kF32 : *type;
}

uint64_t elements_of(const std::vector<int64_t>& shape) {
  uint64_t n = 1;
  for (const int64_t d : shape) n *= static_cast<uint64_t>(d);
  return n;
}

void require_place(const WriteJob& job, const QuantizedLinear& l, const std::vector<int64_t>& shape) {
  if (shape != std::vector<int64_t>{l.out_features, l.in_features}) {
    throw ArgumentError(fmt::format("{}: planned as [{}, {}], the source has {}", l.name, l.out_features, l.in_features,
                                    shape_string(shape)));
  }
  const std::string reason =
      l.group_size < 1 ? fmt::format("group size {}", l.group_size) : refusal_of_linear(job.layout, l);
  if (!reason.empty())
    throw ArgumentError(fmt::format("{}: not possible in format {}: {}", l.name, job.layout.name(), reason));
}

// What the plan says, by name.
struct Planned {
  std::unordered_map<std::string, const QuantizedLinear*> quantized;
  std::unordered_map<std::string, DType> changed;

  explicit Planned(const CheckpointPlan& plan) {
    for (const QuantizedLinear& l : plan.quantized) {
      if (!quantized.emplace(l.name, &l).second) throw ArgumentError(fmt::format("{}: planned twice", l.name));
    }
    for (const ChangedTensor& c : plan.changed) {
      if (!is_float(c.dtype) || quantized.count(c.name) != 0 || !changed.emplace(c.name, c.dtype).second)
        throw ArgumentError(fmt::format("{}: expected one plan entry of a float type", c.name));
    }
  }
  void require_all_in(const ModelSource& source) const {
    const auto require = [&](const std::string& name) {
      if (!source.has(name))
        throw ArgumentError(fmt::format("{}: planned, but {} has no such tensor", name, source.path()));
    };
    for (const auto& [name, unused] : quantized) require(name);
    for (const auto& [name, unused] : changed) require(name);
  }
};

WriteItem plan_item(WriteJob& job, const Planned& planned, const CheckpointTensor& tensor,
                    const std::function<void(WriteItem&)>& plan_floats) {
  WriteItem item;
  item.name = tensor.name;
  item.shape = tensor.shape;
  if (const auto q = planned.quantized.find(tensor.name); q != planned.quantized.end()) {
    require_place(job, *q->second, tensor.shape);
    item.kind = WriteItem::Kind::kQuantized;
    item.linear = q->second;
    item.tensors = job.layout.parts(*item.linear);
    const std::string module = module_name(item.name);
    for (TensorInfo& part : item.tensors) part.name = module + "." + part.name;
    return item;
  }
  item.from = delivered_type(tensor);
  const std::optional<DType> stored = dtype_from_name(tensor.stored_as);
  item.made = !stored || !is_float(*stored);
  if (const auto c = planned.changed.find(tensor.name); c != planned.changed.end()) {
    item.kind = WriteItem::Kind::kChanged;
    item.from = c->second;
  }
  plan_floats(item);
  return item;
}

}  // namespace

uint64_t WriteItem::bytes() const {
  uint64_t sum = 0;
  for (const TensorInfo& t : tensors) sum += t.bytes();
  return sum;
}

void plan_outer(WriteJob& job) {
  const ModelSource& source = job.source;
  std::set<std::string> planned;
  for (const QuantizedLinear& l : job.plan.quantized) planned.insert(l.name);
  for (const std::string& name : {source.family().embedding, source.head_tensor()}) {
    const auto grid = outer_grid(source, job.layout, job.plan.outer, job.plan.group_size, name);
    if (!grid || !planned.insert(name).second) continue;
    job.plan.quantized.push_back({name, source.config().vocab_size, source.config().hidden_size, grid->group_size, "",
                                  grid->bits, grid->symmetric});
    job.outer_grids.emplace(name, *grid);
  }
}

std::vector<WriteItem> plan_items(WriteJob& job, const std::function<void(WriteItem&)>& plan_floats) {
  const Planned planned(job.plan);
  WriteReport& report = job.report;
  std::vector<WriteItem> all;
  for (const CheckpointTensor& tensor : job.source.tensors()) {
    WriteItem item = plan_item(job, planned, tensor, plan_floats);
    const uint64_t weights = elements_of(tensor.shape);
    const uint64_t bytes = item.bytes();
    (item.linear != nullptr ? report.quantized_weights : report.kept_weights) += weights;
    (item.linear != nullptr ? report.quantized_bytes : report.kept_bytes) += bytes;
    if (item.linear == nullptr) report.kept[item.name] = bytes;
    if (item.kind == WriteItem::Kind::kKept && item.from == DType::kF32 && item.tensors.front().dtype != DType::kF32)
      report.narrowed.push_back(item.name);
    job.total += static_cast<int64_t>(item.tensors.size());
    all.push_back(std::move(item));
  }
  planned.require_all_in(job.source);
  const auto weights = static_cast<double>(report.quantized_weights + report.kept_weights);
  if (weights > 0)
    report.bits_per_weight = 8.0 * static_cast<double>(report.quantized_bytes + report.kept_bytes) / weights;
  return all;
}

namespace {

// In runs of rows, of whose floats only one is held.
QuantizedTensor rounded_here(const WriteJob& job, const std::string& name, const Grid& grid) {
  constexpr int64_t kRows = 4096;
  const int64_t all = job.source.config().vocab_size;
  QuantizedTensor out;
  for (int64_t first = 0; first < all; first += kRows)
    append_rows(out, round_rows(job.source.load(name, first, std::min(kRows, all - first)), grid));
  job.source.release(name);
  return out;
}

}  // namespace

QuantizedTensor provided_codes(const WriteJob& job, const WriteItem& item) {
  const QuantizedLinear& l = *item.linear;
  if (const auto grid = job.outer_grids.find(l.name); grid != job.outer_grids.end())
    return rounded_here(job, l.name, grid->second);
  QuantizedTensor tensor = job.provider.quantized(l.name);
  validate(tensor, l.name);
  if (tensor.out_features != l.out_features || tensor.in_features != l.in_features ||
      tensor.group_size != l.group_size || tensor.bits != l.bits) {
    throw ArgumentError(
        fmt::format("{}: planned as [{}, {}] in groups of {}, {} bits, delivered [{}, {}] in groups of {}, {} bits",
                    l.name, l.out_features, l.in_features, l.group_size, l.bits, tensor.out_features,
                    tensor.in_features, tensor.group_size, tensor.bits));
  }
  tensor.symmetric = tensor.symmetric && l.symmetric;  // zeros in the middle are stored among others
  return tensor;
}

BlockTensor provided_blocks(const WriteJob& job, const WriteItem& item) {
  const QuantizedLinear& l = *item.linear;
  BlockTensor blocks = job.provider.blocks(l.name);
  const auto expected = static_cast<size_t>(l.out_features * block_row_bytes(*l.block, l.in_features));
  if (blocks.type != *l.block || blocks.out_features != l.out_features || blocks.in_features != l.in_features ||
      blocks.bytes.size() != expected) {
    throw ArgumentError(fmt::format("{}: planned as [{}, {}] in {}, delivered [{}, {}] in {}", l.name, l.out_features,
                                    l.in_features, ggml_type_info(*l.block).name, blocks.out_features,
                                    blocks.in_features, ggml_type_info(blocks.type).name));
  }
  return blocks;
}

std::vector<std::string> kept_modules(const WriteJob& job) {
  std::set<std::string> quantized;
  for (const QuantizedLinear& l : job.plan.quantized) quantized.insert(l.name);
  std::vector<std::string> kept;
  for (int64_t layer = 0; layer < job.source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : job.source.linears(layer)) {
      const std::string module = module_name(slot.weight);
      if (quantized.count(slot.weight) == 0 && (kept.empty() || kept.back() != module)) kept.push_back(module);
    }
  }
  if (quantized.count(job.source.family().head) == 0) kept.push_back(module_name(job.source.family().head));
  return kept;
}

}  // namespace metal_marlin
