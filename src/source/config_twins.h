// Keys of a config that say the same thing in two places.
#pragma once

#include <string>
#include <vector>

#include "source/config_reader.h"

namespace metal_marlin {

// Where two such keys differ, and transformers says which of them counts: one warning each. FormatError that names both
// keys and values where engines and versions differ in which counts.
void settle_twins(const ConfigReader& config, std::vector<std::string>& warnings);

}  // namespace metal_marlin
