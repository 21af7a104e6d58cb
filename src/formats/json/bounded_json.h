// JSON texts that come from files, built as values within bounds, and of at most 4,000,000 values.
//
// The library's parser takes a NUL byte for the end of a text, so that what stands behind it is ignored. Every text of
// a file is therefore parsed by a function of this header, StrictJson or walk_json(), which refuse it
// (scripts/check_includes.py sees to that).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "formats/json/json_bounds.h"

namespace metal_marlin {

// FormatError that begins with `where` (the file, and the key in it that holds the text): no JSON, or one that exceeds
// the bounds; the latter names the key of the outermost object that the value belongs to.
nlohmann::json parse_json(std::string_view text, const std::string& where, const JsonBounds& bounds = {});
// The same without a message: a discarded value (is_discarded()) for what parse_json refuses.
nlohmann::json parse_json_or_discard(std::string_view text);
// The same with the keys of objects in the order of the text, of which the caller has checked the bounds
// (kMostOrderedKeys).
nlohmann::ordered_json parse_ordered_json_or_discard(std::string_view text);

// "FILE: key "x": expected at most 64 levels of nesting, found more"
std::string excess_text(const std::string& where, const JsonExcess& excess);

}  // namespace metal_marlin
