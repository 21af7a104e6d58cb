// Shows strings from files in error messages.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// Returns `text` in quotes, with control characters as '?', cut after 100 bytes, because names in files may contain
// anything.
inline std::string shown(std::string_view text) {
  constexpr size_t kLimit = 100;
  std::string out = "\"";
  for (const char c : text.substr(0, kLimit)) out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  out += text.size() > kLimit ? "...\"" : "\"";
  return out;
}

}  // namespace metal_marlin
