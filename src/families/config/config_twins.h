// Keys of a config that say the same thing in two places.
#pragma once

#include <string>
#include <vector>

#include "families/config/config_reader.h"

namespace metal_marlin {

// Adds a warning for each pair of keys that state one setting with different values, if transformers defines which of
// the two counts. FormatError that names both keys and values if engines and versions disagree on which counts.
// `by_layer_type`: the family's rope_parameters hold one set for each of the layers' types, and another form of them
// does not count.
void settle_twins(const ConfigReader& config, bool by_layer_type, std::vector<std::string>& warnings);

}  // namespace metal_marlin
