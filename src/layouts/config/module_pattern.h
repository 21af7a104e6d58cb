// Patterns of module names in configs.
#pragma once

#include <string>

namespace metal_marlin {

// A regular expression that matches only this module's name, "^model\.layers\.0$".
std::string exact_expression(const std::string& module);
// The same as compressed-tensors has it: "re:^model\.layers\.0$".
inline std::string exact_pattern(const std::string& module) {
  return "re:" + exact_expression(module);
}

}  // namespace metal_marlin
