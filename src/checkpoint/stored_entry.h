// The tensors of a safetensors checkpoint by their logical names: which stored ones make one of them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_source.h"
#include "formats/safetensors.h"
#include "layouts/packed_config.h"

namespace metal_marlin {

// Of a weight in floats of 8 bits (checkpoint/float8.h).
struct FloatScale {
  const TensorView* values = nullptr;  // null: the tensor is no such weight
  int64_t block_rows = 0;              // of the weight, that share one
  int64_t block_columns = 0;
};

// Where a logical tensor lies.
struct StoredEntry {
  const SafetensorsFile* file = nullptr;
  const TensorView* main = nullptr;  // the tensor, or its codes
  PackedLinear packed;               // its codes are null: stored as it is
  std::vector<int64_t> shape;
  FloatScale scale;

  bool plain() const noexcept { return packed.codes == nullptr; }
  // Null where there is none.
  std::array<const TensorView*, 6> parts() const noexcept {
    return {main, packed.scales, packed.zeros, packed.channels, packed.shape, scale.values};
  }
};
using StoredEntries = std::map<std::string, StoredEntry>;

// "model.layers.0.mlp.up_proj" of one of its tensors; empty where the name does not end so.
std::string module_of(const std::string& name, std::string_view suffix);
// The names of the parts of the linear of which `raw`, the tensors by their stored names, has codes under this name;
// null: it has none.
const PartNames* names_of_codes(const PackedConfig& packed, const std::string& name, const StoredEntry& e,
                                const StoredEntries& raw);
// Whether it is another part of such a linear: scales, zeros, channels.
bool is_part(const PackedConfig& packed, const std::string& name, const StoredEntries& raw);
// Sets the parts of the linear of a module, whose codes are set, and returns the name of the first that is missing;
// empty: all are there.
std::string set_parts(const std::string& module, const PartNames& names, const StoredEntries& raw,
                      PackedLinear& linear);
// Null where there is none of this name.
const TensorView* part_of(const StoredEntries& raw, const std::string& name);
// Scales, zeros or the like of the linear with this weight, where its codes are not there; empty: none.
std::string quantized_part(const std::string& weight, const std::vector<std::unique_ptr<SafetensorsFile>>& files);

// The codes of some rows alone, as an embedding is read, of a layout whose parts have rows. As read_packed throws.
QuantizedTensor read_code_rows(const PackedConfig& packed, const StoredEntry& e, int64_t first, int64_t rows,
                               const std::string& name);

// What the checkpoint says of them. reasons: why a tensor was left out, by name.
std::vector<CheckpointTensor> describe(const StoredEntries& entries, const PackedConfig& packed,
                                       const std::string& format, const std::map<std::string, std::string>& reasons);

}  // namespace metal_marlin
