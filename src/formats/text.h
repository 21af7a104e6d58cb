// Strings of files inside messages.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// `text` in quotes, control characters as '?', cut after 100 bytes: names in files may hold anything.
inline std::string shown(std::string_view text) {
  constexpr size_t kLimit = 100;
  std::string out = "\"";
  for (const char c : text.substr(0, kLimit)) out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  out += text.size() > kLimit ? "...\"" : "\"";
  return out;
}

}  // namespace metal_marlin
