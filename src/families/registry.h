// Which families there are, and which one a model belongs to.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "families/family.h"

namespace metal_marlin {

// All families, in the order of the table in docs/architectures.md.
const std::vector<const Family*>& families();
// By config.json's model_type or architectures; UnsupportedError (naming `file`, what was found and the known ones).
const Family& find_family(const nlohmann::json& config, const std::string& file);
// Adds a warning where config.json's `architectures` name another model than the family's.
void compare_architectures(const nlohmann::json& architectures, const Family& family, const std::string& file,
                           std::vector<std::string>& warnings);
// By general.architecture of a GGUF file; UnsupportedError as above.
const Family& find_family_of_gguf(const std::string& architecture, const std::string& file);

}  // namespace metal_marlin
