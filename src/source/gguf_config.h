// config.json rebuilt from the metadata of a GGUF file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "source/family.h"

namespace metal_marlin {

// A config.json as Hugging Face would have it (the keys that read_model_config and other engines need). What was
// contradictory and how it was read goes to `warnings`, one line each.
nlohmann::json gguf_config(const GgufFile& file, const Family& family, const std::string& architecture,
                           std::vector<std::string>& warnings);

}  // namespace metal_marlin
