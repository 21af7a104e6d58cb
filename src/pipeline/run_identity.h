// What makes a run of quantize the same as another: by that an interrupted one is resumed and a finished one known.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pipeline/recipe.h"

namespace metal_marlin {

// Everything that determines the output's bytes: {version, model {path, digest}, options, texts: digests}. The path is
// for messages and does not count.
nlohmann::json run_identity(const QuantizeOptions& options, const Recipe& recipe, const ModelSource& source);
uint64_t run_fingerprint(const nlohmann::json& identity);
// What differs, for a message: "--scheme: sym then, asym now; another model: A then, B now". `before` may be of another
// version, or of somebody else.
std::string identity_difference(const nlohmann::json& before, const nlohmann::json& now);

}  // namespace metal_marlin
