// What the parts of one CheckpointWriter::write() share: the plan laid out tensor by tensor, and what was written.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/dtype.h"
#include "formats/safetensors.h"
#include "layouts/layout.h"
#include "platform/folder.h"
#include "write/checkpoint_plan.h"
#include "write/tensor_provider.h"

namespace metal_marlin {

// One tensor of the source, and the tensors that are written for it.
struct WriteItem {
  std::string name;
  enum class Kind : uint8_t { kKept, kChanged, kQuantized } kind = Kind::kKept;
  DType from = DType::kF16;
  bool made = false;  // stored as codes or blocks, of which floats are made
  const QuantizedLinear* linear = nullptr;
  std::vector<int64_t> shape;            // of the source's tensor
  std::vector<TensorInfo> tensors;       // full names; blocks of a ggml type: U8, rows of bytes
  std::optional<GgmlType> rounded_to{};  // kKept: rows of floats that are rounded to blocks of this type

  uint64_t bytes() const;
};

struct WriteJob {
  const Layout& layout;
  const ModelSource& source;
  CheckpointPlan plan;
  TensorProvider& provider;
  const std::string& folder;
  const WriteProgress& progress;
  const Folder* place = nullptr;  // `folder`; none for a forecast
  WriteReport report;
  int64_t done = 0;
  int64_t total = 0;                          // tensors to write
  std::map<std::string, Grid> outer_grids{};  // of the embedding and the head, where the job itself rounds them

  void step() const {
    if (progress) progress(done, total);
  }
  void add_file(const std::string& name) { report.files.push_back({name, place->status(name).identity.size}); }
};

// Adds embedding and head to the linears of the plan, where the layout and the plan want them as codes.
void plan_outer(WriteJob& job);
// Every tensor of the source, in its order. plan_floats sets the tensors of an item that is not quantized. Sets the
// sizes of the report. ArgumentErrors of CheckpointWriter::write() for the plan.
std::vector<WriteItem> plan_items(WriteJob& job, const std::function<void(WriteItem&)>& plan_floats);

// The codes of the item as the provider gives them; ArgumentError where they are not what was planned.
QuantizedTensor provided_codes(const WriteJob& job, const WriteItem& item);
// Likewise of a linear whose grid is that of a ggml type.
BlockTensor provided_blocks(const WriteJob& job, const WriteItem& item);

// The linears that are not quantized, and the head: modules, "model.layers.0.mlp.up_proj".
std::vector<std::string> kept_modules(const WriteJob& job);

}  // namespace metal_marlin
