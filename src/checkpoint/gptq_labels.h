// GPTQ checkpoints whose config contradicts their tensors: which of the two counts.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "checkpoint/packed_layouts.h"

namespace metal_marlin {

struct NamedLinear {
  std::string name;    // with its file, for messages
  std::string module;  // "model.layers.0.mlp.up_proj"
  PackedLinear* linear = nullptr;
};

// Looks at zeros and g_idx of all linears of a checkpoint in 4 bits.
//
// Version: symmetric codes ("sym": true, the default) have the zero 2^(bits-1), of which version 1 stores one less.
// Where every zero is off by one, the label is wrong: `packed` gets the other version, and `config` says so.
// g_idx: one number alone over several groups means that there is none; it is dropped. With "desc_act": true that, or
// none at all, means that the order of the columns is lost: FormatError.
//
// Zeros that contradict "sym" or "zero_point" count as stored, with a warning.
//
// Modules that the config excludes ("lm_head": false, modules_to_not_convert) and the file holds as codes: as stored.
//
// Returns warnings, one line each. FormatError also where linears contradict each other.
std::vector<std::string> settle_labels(PackedConfig& packed, nlohmann::json& config,
                                       const std::vector<NamedLinear>& linears, const std::string& path);

}  // namespace metal_marlin
