// JSON texts that come from files, built as values with a bound on their nesting: deep values take the stack of
// whatever walks, prints or destroys them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace metal_marlin {

// Deeper than any configuration, shallow enough for whatever walks a value recursively.
inline constexpr int kDeepestJson = 64;

// FormatError that begins with `where` (the file, and the key in it that holds the text): no JSON, or more than
// kDeepestJson levels of nesting; the latter names the key of the outermost object that the value belongs to.
nlohmann::json parse_json(std::string_view text, const std::string& where);
// The same without a message: a discarded value (is_discarded()) for what parse_json refuses.
nlohmann::json parse_json_or_discard(std::string_view text);

}  // namespace metal_marlin
