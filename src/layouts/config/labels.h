// Checkpoints whose config contradicts their tensors: which of the two counts.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "layouts/packed_config.h"

namespace metal_marlin {

class ConfigReader;

// Looks at zeros and channels of all linears of a checkpoint of codes, and at what the config says of them.
//
// Modules that the config excludes ("lm_head": false, modules_to_not_convert) and the file holds as codes: as stored.
// The rest is the layout's: Layout::settle_labels, by the functions below.
//
// Returns warnings, one line each. FormatError where linears contradict each other.
std::vector<std::string> settle_labels(PackedConfig& packed, nlohmann::json& config,
                                       const std::vector<NamedLinear>& linears, const std::string& path);

// g_idx: one number alone over several groups means that there is none; it is dropped. With "desc_act": true that, or
// none at all, means that the order of the columns is lost: FormatError.
void settle_order(const ConfigReader& settings, const std::vector<NamedLinear>& linears, const std::string& path,
                  std::vector<std::string>& warnings);

// What a config says of zeros, and how the layout stores them.
struct ZeroLabel {
  bool interleaved = false;             // as AWQ stores them
  int stored_less = 0;                  // by how much less than the zero: 1 in version 1 of GPTQ
  bool stated = false;                  // the config says that the codes are symmetric; else its silence does
  const char* says = "";                // the words for that
  const StoredLayout* other = nullptr;  // the version that stores zeros otherwise; null: there is none
};
// The config says that codes are symmetric, whose zero is 2^(bits-1). Where every zero is off by one, the label is
// wrong: `packed` gets the other version, and `config` says so. Other zeros count as stored, with a warning.
void settle_version(PackedConfig& packed, nlohmann::json& config, const ZeroLabel& label,
                    const std::vector<NamedLinear>& linears, const std::string& path,
                    std::vector<std::string>& warnings);
// The config says that they are not. Nothing contradicts zeros that are all the same number, but where the other
// version reads it as the middle, that version is the likely one.
void warn_of_version(const PackedConfig& packed, const ZeroLabel& label, const std::vector<NamedLinear>& linears,
                     const std::string& path, std::vector<std::string>& warnings);
// The native layout stores each zero less the middle.
void warn_of_native_zeros(const std::vector<NamedLinear>& linears, const std::string& path,
                          std::vector<std::string>& warnings);

}  // namespace metal_marlin
