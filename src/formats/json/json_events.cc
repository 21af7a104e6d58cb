#include "formats/json/json_events.h"

namespace metal_marlin {

bool walk_json(std::string_view text, nlohmann::json_sax<nlohmann::json>& handler) {
  const bool whole = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  return whole && text.find('\0') == std::string_view::npos;
}

}  // namespace metal_marlin
