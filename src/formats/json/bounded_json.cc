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

// The one place where the library's parser builds values.
template <class Json>
Json value_or_discard(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, false);
}

}  // namespace

std::string excess_text(const std::string& where, const JsonExcess& excess) {
  return fmt::format("{}: {}expected at most {}, found more", where,
                     excess.key.empty() ? std::string() : "key " + shown(excess.key) + ": ", excess.bound);
}

json parse_json(std::string_view text, const std::string& where, const JsonBounds& bounds) {
  if (const auto excess = json_excess(text, built(bounds))) throw FormatError(excess_text(where, *excess));
  json value = value_or_discard<json>(text);
  if (value.is_discarded()) throw FormatError(fmt::format("{}: {}", where, json_fault_text(text)));
  return value;
}

json parse_json_or_discard(std::string_view text) {
  return json_excess(text, built({})) ? json(json::value_t::discarded) : value_or_discard<json>(text);
}

nlohmann::ordered_json parse_ordered_json_or_discard(std::string_view text) {
  return value_or_discard<nlohmann::ordered_json>(text);
}

}  // namespace metal_marlin
