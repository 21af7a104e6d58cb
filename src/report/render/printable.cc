#include "report/render/printable.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "formats/text.h"

namespace metal_marlin {

std::string printable(const std::string& text) {
  constexpr size_t kLongest = 1000;
  return escaped(text, kLongest);
}

void make_printable(nlohmann::json& value) {
  if (value.is_string()) {
    value = printable(value.get_ref<const std::string&>());
  } else if (value.is_array()) {
    for (auto& entry : value) make_printable(entry);
  } else if (value.is_object()) {
    auto cleaned = nlohmann::json::object();
    for (auto& [key, entry] : value.items()) {
      make_printable(entry);
      cleaned[printable(key)] = std::move(entry);
    }
    value = std::move(cleaned);
  }
}

}  // namespace metal_marlin
