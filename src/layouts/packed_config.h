// Which layout a checkpoint's config names, and where the layout's tensors of one linear lie.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

class StoredLayout;
struct PartNames;

// What codes of a module are, where the config says so of it alone.
struct ModuleScheme {
  int bits = 4;
  int64_t group_size = 0;  // -1: the whole row
};

// "quantization_config" of a config.json.
struct PackedConfig {
  const StoredLayout* layout = nullptr;  // null: not quantized
  std::string file;                      // that says so
  int bits = 4;                          // of a code; native: what the files' metadata say counts
  int64_t group_size = 0;                // -1: the whole row
  bool bits_stated = false;              // else 4 is assumed
  bool by_shape = false;                 // linears may have another group size: found out by the shape of their scales
  bool bits_by_shape = false;            // GPTQ: also another number of bits, by the shapes of their zeros and scales
  std::map<std::string, ModuleScheme> modules;
  std::vector<int> other_bits;  // that some modules have, which the config does not name one by one
  bool float8 = false;          // weights are stored in floats of 8 bits, with scales beside them
  bool other_scales = false;    // activations or the cache may have scales too, which are of no use here
  int64_t block_rows = 0;       // of such a weight, which share a scale; 0: the config does not say
  int64_t block_columns = 0;
};

// What the metadata of a file say of its linears.
struct FileMetadata {
  int bits = 4;                       // of a code
  std::map<std::string, int> others;  // weight's name -> bits, of linears that differ
  int64_t group_size = 0;             // -1: the whole row, 0: the metadata do not say
  std::map<std::string, int64_t> other_groups;
  int bits_of(const std::string& name) const {
    const auto it = others.find(name);
    return it == others.end() ? bits : it->second;
  }
  int64_t group_size_of(const std::string& name) const {
    const auto it = other_groups.find(name);
    return it == other_groups.end() ? group_size : it->second;
  }
};

// The stored tensors of one linear.
struct PackedLinear {
  int bits = 4;            // of a code
  int64_t group_size = 0;  // -1: the whole row; 0: that of the config
  const TensorView* codes = nullptr;
  const TensorView* scales = nullptr;
  const TensorView* zeros = nullptr;
  const TensorView* channels = nullptr;
  const TensorView* shape = nullptr;
  std::vector<const TensorView*> notes;  // PartNames::notes, in their order; null: not there
  const PartNames* names = nullptr;      // that its parts have
};

struct NamedLinear {
  std::string name;    // with its file, for messages
  std::string module;  // "model.layers.0.mlp.up_proj"
  PackedLinear* linear = nullptr;
};

}  // namespace metal_marlin
