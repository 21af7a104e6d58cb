// Text that goes to a terminal as a result, such as what a model writes.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// Lines, tabs and the joiners and marks that scripts and emoji need stay. What could steer the terminal, or show text
// in another order than it has, is escaped as escaped() (text.h) does. Nothing is cut.
std::string text_for_terminal(std::string_view text);

}  // namespace metal_marlin
