// Keys of a config that say the same thing in two places.
#pragma once

#include <string>
#include <vector>

#include "source/config_reader.h"

namespace metal_marlin {

// Where two such keys differ, and transformers says which of them counts: one warning each. FormatError that names both
// keys and values where engines and versions differ in which counts.
// `by_layer_type`: the family's rope_parameters hold one set for each of the layers' types, and another form of them
// does not count.
void settle_twins(const ConfigReader& config, bool by_layer_type, std::vector<std::string>& warnings);

}  // namespace metal_marlin
