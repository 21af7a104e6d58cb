#include "families/tensor_names.h"

#include <charconv>
#include <string_view>

namespace metal_marlin {

std::string bias_name(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.substr(0, weight.size() - (weight.ends_with(kSuffix) ? kSuffix.size() : 0)) + ".bias";
}

int64_t layer_behind(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return -1;
  int64_t layer = -1;
  const char* end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(name.data() + prefix.size(), end, layer);
  return code == std::errc() && stop != end && *stop == '.' ? layer : -1;
}

}  // namespace metal_marlin
