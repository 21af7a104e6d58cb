// Counted things in messages: "1 tensor", "2 tensors".
#pragma once

#include <concepts>
#include <string>
#include <string_view>

namespace metal_marlin {

// `plural` for words that do not end in -s then: counted(n, "bias", "biases").
template <std::integral N>
std::string counted(N count, std::string_view noun, std::string_view plural = {}) {
  std::string text = std::to_string(count) + " ";
  if (count == 1) return text.append(noun);
  return plural.empty() ? text.append(noun) + "s" : text.append(plural);
}

// The form of a verb or pronoun that goes with `count` things: form_for(n, "is", "are").
template <std::integral N>
constexpr const char* form_for(N count, const char* one, const char* many) noexcept {
  return count == 1 ? one : many;
}

}  // namespace metal_marlin
