// Reads "quantization_config", and linears by it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/values.h"
#include "layouts/packed_config.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Of `config`, where "quantization_config" is missing of the file that older tools write beside it in `folder`:
// quantize_config.json (AutoGPTQ, GPTQModel) or quant_config.json (AutoAWQ), which is then put into `config`.
// UnsupportedError naming file, key, found and known for another method, version or number of bits; FormatError as
// ConfigReader.
PackedConfig read_packed_config(nlohmann::json& config, const std::string& config_path, const std::string& folder,
                                std::vector<std::string>& warnings);

// -1: the whole row. FormatError as Layout::logical_shape.
int64_t group_size_of(const PackedConfig& config, const PackedLinear& linear, const std::string& name);

// As Layout::unpack, with the group size of the config.
QuantizedTensor read_packed(const PackedConfig& config, const PackedLinear& linear, const std::string& name,
                            Codes codes);

// f16 bits of a scale per input channel, by which the weight is divided; empty: the layout has none there.
std::vector<uint16_t> read_q_scale(const PackedLinear& linear, int64_t in_features, const std::string& name);

}  // namespace metal_marlin
