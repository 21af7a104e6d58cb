// What configs of GPTQ and of Marlin share.
#pragma once

#include <string>

#include "families/config/config_reader.h"

namespace metal_marlin {

// "gptq", "gptq_v2", "marlin", or what else the config says. What is missing is version 1: the key came with version 2.
std::string gptq_variant(const ConfigReader& settings);
// UnsupportedError for settings that change what the codes mean.
void check_gptq_settings(const ConfigReader& settings);

}  // namespace metal_marlin
