// Text of files on its way to a terminal or a page.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace metal_marlin {

// `text` with everything replaced by '?' that could steer a terminal, forge a line or turn the order of letters:
// control characters (C0, DEL, C1), line and paragraph separators, marks of direction, and bytes that are no UTF-8.
// What is longer than `most` bytes is cut, and ends in "...".
std::string printable(std::string_view text, size_t most = 4096);

// All strings and keys of `value` made printable(): what a renderer takes from it then needs no further care.
void make_printable(nlohmann::json& value);
void make_printable(nlohmann::ordered_json& value);

}  // namespace metal_marlin
