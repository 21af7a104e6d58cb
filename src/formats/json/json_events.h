// The events of a JSON text for a handler: nothing is built, nesting takes no stack.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace metal_marlin {

// False where the text is no JSON, or the handler ends the walk by returning false. A NUL byte makes a text no JSON,
// wherever it stands; the handler has then seen what comes before it.
bool walk_json(std::string_view text, nlohmann::json_sax<nlohmann::json>& handler);

}  // namespace metal_marlin
