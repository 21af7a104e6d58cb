// What configs of AWQ share.
#pragma once

#include <string>

#include "families/config/config_reader.h"

namespace metal_marlin {

// "gemm", "gemv", "gemv_fast", "llm-awq", or what else the config says, in lower case. What is missing is gemm. MIT's
// package is named by "backend", whatever the version says.
std::string awq_variant(const ConfigReader& settings);

}  // namespace metal_marlin
