#include "formats/bounded_json.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "formats/json_fault.h"
#include "formats/text.h"

namespace metal_marlin {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& where) {
  std::string key;  // of the outermost object
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key && depth == 1) key = value.get<std::string>();
    if (depth > kDeepestJson) {
      throw FormatError(fmt::format("{}: {}expected at most {} levels of nesting, found more", where,
                                    key.empty() ? std::string() : "key " + shown(key) + ": ", kDeepestJson));
    }
    return true;
  };
  json value = json::parse(text, watch, false);
  if (value.is_discarded()) throw FormatError(fmt::format("{}: {}", where, json_fault_text(text)));
  return value;
}

json parse_json_or_discard(std::string_view text) {
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kDeepestJson;
    return !too_deep;
  };
  json value = json::parse(text, watch, false);
  return too_deep ? json(json::value_t::discarded) : value;
}

}  // namespace metal_marlin
