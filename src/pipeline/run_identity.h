// What makes a run of quantize the same as another: by that an interrupted one is resumed and a finished one known.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pipeline/recipe.h"

namespace metal_marlin {

// Everything that determines the output's bytes: {version, model {path, digest}, options, texts: digests, given: the
// options that were named}. The path and `given` are for messages and do not count.
nlohmann::json run_identity(const QuantizeOptions& options, const Recipe& recipe, const ModelSource& source);
uint64_t run_fingerprint(const nlohmann::json& identity);
// What differs, for a message: "--scheme sym there, asym now; the model A there, B now". Of what
// follows from another method, only that is named which an option said. `before` may be of another
// version, or of somebody else.
std::string identity_difference(const nlohmann::json& before, const nlohmann::json& now);

}  // namespace metal_marlin
