#include "layouts/config/module_pattern.h"

namespace metal_marlin {

std::string exact_expression(const std::string& module) {
  std::string out(1, '^');
  for (const char c : module) {
    if (c == '.') out.push_back('\\');
    out.push_back(c);
  }
  out.push_back('$');
  return out;
}

}  // namespace metal_marlin
