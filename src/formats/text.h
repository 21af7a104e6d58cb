// Strings of files inside messages and tables.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace metal_marlin {

// Names and values in files may hold anything: what could steer a terminal or forge a line is escaped. These are
// control characters ("\x1b", "\n"), C1 controls, marks that change the direction of writing or separate lines
// ("\u202e"), and bytes that are no UTF-8 ("\xff"). At most `most` characters are kept, then "..." follows.
std::string escaped(std::string_view text, size_t most = 200);
// The same in double quotes.
std::string shown(std::string_view text);
// The same for a whole line, such as a warning. Of more than 3,900 bytes the middle is left out.
std::string escaped_line(std::string_view text);

}  // namespace metal_marlin
