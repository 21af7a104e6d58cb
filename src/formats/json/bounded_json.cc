#include "formats/json/bounded_json.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/json/json_fault.h"
#include "formats/text.h"

namespace metal_marlin {

using nlohmann::json;

namespace {

// A value takes up to some 100 bytes in memory, of a text that may have 2 for it. The largest tokenizer.json have some
// 2 000 000.
JsonBounds built(JsonBounds bounds) {
  constexpr uint64_t kMostValues = 4'000'000;
  bounds.values = std::min(bounds.values, kMostValues);
  return bounds;
}

}  // namespace

std::string excess_text(const std::string& where, const JsonExcess& excess) {
  return fmt::format("{}: {}expected at most {}, found more", where,
                     excess.key.empty() ? std::string() : "key " + shown(excess.key) + ": ", excess.bound);
}

json parse_json(std::string_view text, const std::string& where, const JsonBounds& bounds) {
  if (const auto excess = json_excess(text, built(bounds))) throw FormatError(excess_text(where, *excess));
  json value = json::parse(text, nullptr, false);
  if (value.is_discarded()) throw FormatError(fmt::format("{}: {}", where, json_fault_text(text)));
  // The library takes a NUL byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    throw FormatError(fmt::format("{}: no valid JSON: expected text, found a NUL byte at byte {}", where, nul));
  return value;
}

json parse_json_or_discard(std::string_view text) {
  return text.find('\0') != std::string_view::npos || json_excess(text, built({})) ? json(json::value_t::discarded)
                                                                                   : json::parse(text, nullptr, false);
}

}  // namespace metal_marlin
