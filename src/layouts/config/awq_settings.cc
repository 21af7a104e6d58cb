#include "layouts/config/awq_settings.h"

#include <algorithm>

namespace metal_marlin {

std::string awq_variant(const ConfigReader& q) {
  if (q.find_string("backend").value_or("") == "llm-awq") return "llm-awq";
  std::string version = first_string(q, {"version", "checkpoint_format", "format"}, "gemm");
  std::transform(version.begin(), version.end(), version.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return version;
}

}  // namespace metal_marlin
