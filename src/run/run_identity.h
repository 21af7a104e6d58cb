// What makes a run of quantize the same as another: by that an interrupted one is resumed and a finished one known.
#pragma once

#include <optional>
#include <string>

#include "recipe/recipe.h"

namespace metal_marlin {

// Everything that determines the output's bytes; the model's path and `given` are for messages and do not count.
IdentityRecord run_identity(const QuantizeOptions& options, const Recipe& recipe, const ModelSource& source);
std::string run_fingerprint(const IdentityRecord& identity);  // a digest's text (core/digest.h)
// What differs, for a message: "--scheme sym there, asym now; the model A there, B now". Of what follows from another
// method, only that is named which an option said. `before` may be of another version, or of somebody else; an empty
// version, digest or list of options there is not known. Nothing: of a version that did not note it.
std::string identity_difference(const std::optional<IdentityRecord>& before, const IdentityRecord& now);

}  // namespace metal_marlin
