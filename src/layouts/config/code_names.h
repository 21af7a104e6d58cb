// What the names of a checkpoint's tensors say of codes, against what its config says.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "layouts/packed_config.h"

namespace metal_marlin {

// `file_of`: the file of each stored tensor, by name.

// The layout that needs no config of whose codes there are some; null: none.
const StoredLayout* self_described(const std::map<std::string, std::string>& file_of);

// FormatError where codes are stored that the config does not speak of: it has no quantization_config (`config_path` is
// then the file that lacks it), or names a layout whose codes are called otherwise.
void refuse_unlabelled_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of,
                             const std::string& config_path);

// The codes of a linear whose scales or zeros are there, and neither its codes nor a weight in floats; empty: none.
std::string parts_without_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of);

// The warning for a config that speaks of codes beside tensors that are floats alone.
std::string label_without_codes(const PackedConfig& config);

// Adds a warning for each number of the config that a file's metadata contradict, of the first such file by
// name: the other shards say the same.
void compare_with_metadata(const PackedConfig& config, const std::map<const SafetensorsFile*, FileMetadata>& files,
                           std::vector<std::string>& warnings);

}  // namespace metal_marlin
