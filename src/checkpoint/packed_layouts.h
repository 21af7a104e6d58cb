// Which packed layout a checkpoint's config names, and where the layout's tensors of one linear lie.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Names of a layout's tensors: what follows the name of the linear's weight less ".weight". Empty: the layout has none.
struct PackedLayout {
  const char* format;  // "awq", "gptq", "gptq_v2", "marlin", "native"
  const char* codes;
  const char* scales;
  const char* zeros;
  const char* channels;  // per input channel, optional: q_scale of native, g_idx of GPTQ
};

// "quantization_config" of a config.json.
struct PackedConfig {
  const PackedLayout* layout = nullptr;  // null: not quantized
  std::string file;                      // that says so
  int bits = 4;                          // of a code; native: what the files' metadata say counts
  int64_t group_size = 0;                // -1: the whole row
  bool bits_stated = false;              // else 4 is assumed
  bool by_shape = false;                 // linears may have another group size: found out by the shape of their scales
  bool bits_by_shape = false;            // GPTQ: also another number of bits, by the shapes of their zeros and scales
};

// Of `config`, where "quantization_config" is missing of the file that older tools write beside it in `folder`:
// quantize_config.json (AutoGPTQ, GPTQModel) or quant_config.json (AutoAWQ), which is then put into `config`.
// UnsupportedError naming file, key, found and known for another method, version or number of bits; FormatError as
// ConfigReader.
PackedConfig read_packed_config(nlohmann::json& config, const std::string& config_path, const std::string& folder,
                                std::vector<std::string>& warnings);

// The same checkpoint in the other version of GPTQ: `format` is "gptq" or "gptq_v2". UnsupportedError where that
// version has no codes of these bits.
void use_gptq_version(PackedConfig& config, const std::string& format);

// What the metadata of a file in the native format say of its linears.
struct NativeMetadata {
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
// UnsupportedError for another version (also files of the earlier numpy implementation, which have none) or number of
// bits, FormatError for what is no such metadata; both name `file`, the key, expected and found.
NativeMetadata read_native_metadata(const std::map<std::string, std::string>& metadata, const std::string& file);

// The stored tensors of one linear.
struct PackedLinear {
  int bits = 4;            // of a code
  int64_t group_size = 0;  // -1: the whole row; 0: that of the config
  const TensorView* codes = nullptr;
  const TensorView* scales = nullptr;
  const TensorView* zeros = nullptr;
  const TensorView* channels = nullptr;
};

// Bits of a code of a linear whose config has bits_by_shape: 32 times the words of a row of zeros, divided by the
// outputs of the scales. FormatError naming `name` where that is none of the layout's widths.
int bits_by_shape(const PackedConfig& config, const PackedLinear& linear, const std::string& name);

// [out, in] of the linear whose codes these are. FormatError naming `name` (of the tensor) unless two dimensions.
std::vector<int64_t> logical_shape(const PackedLayout& layout, const PackedLinear& linear, const std::string& name);

// -1: the whole row. FormatError as logical_shape.
int64_t group_size_of(const PackedConfig& config, const PackedLinear& linear, const std::string& name);

// As the unpack functions of pack/ throw, with `name` in front.
QuantizedTensor read_packed(const PackedConfig& config, const PackedLinear& linear, const std::string& name,
                            Codes codes);

// f16 bits of a q_scale; empty: the layout has none there.
std::vector<uint16_t> read_q_scale(const PackedConfig& config, const PackedLinear& linear, int64_t in_features,
                                   const std::string& name);

}  // namespace metal_marlin
