// JSON on its way to a terminal.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// What escaped() (text.h) would escape becomes "\u009b" and the like; control characters JSON escapes itself. A parser
// reads the same values.
std::string json_for_terminal(std::string_view json);

}  // namespace metal_marlin
