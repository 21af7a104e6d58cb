#include "pipeline/printable.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

namespace metal_marlin {
namespace {

struct Character {
  uint32_t code = 0;
  size_t bytes = 1;
  bool valid = false;
};

// The UTF-8 character at `at`.
Character character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  const size_t bytes = first >= 0xF0 && first < 0xF5 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 0;
  if (bytes == 0 || first >= 0xF5 || at + bytes > text.size()) return {};
  uint32_t code = first & (0xFFU >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return {};
    code = (code << 6U) | (byte(i) & 0x3FU);
  }
  const uint32_t least = bytes == 2 ? 0x80 : bytes == 3 ? 0x800 : 0x10000;
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < least || code > 0x10FFFF || surrogate) return {};
  return {code, bytes, true};
}

bool is_harmless(uint32_t code) {
  const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
  const bool separator = code == 0x2028 || code == 0x2029;
  const bool direction = code == 0x061C || code == 0x200E || code == 0x200F || (code >= 0x202A && code <= 0x202E) ||
                         (code >= 0x2066 && code <= 0x2069);
  return !control && !separator && !direction;
}

template <typename Json>
void clean(Json& value) {
  if (value.is_string()) {
    value = printable(value.template get_ref<const std::string&>());
  } else if (value.is_array()) {
    for (Json& entry : value) clean(entry);
  } else if (value.is_object()) {
    Json cleaned = Json::object();
    for (auto& [key, entry] : value.items()) {
      clean(entry);
      cleaned[printable(key)] = std::move(entry);
    }
    value = std::move(cleaned);
  }
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    if (out.size() + c.bytes > most) return out + "...";
    if (c.valid && is_harmless(c.code)) {
      out.append(text.substr(at, c.bytes));
    } else {
      out += '?';
    }
    at += c.bytes;
  }
  return out;
}

void make_printable(nlohmann::json& value) {
  clean(value);
}

void make_printable(nlohmann::ordered_json& value) {
  clean(value);
}

}  // namespace metal_marlin
