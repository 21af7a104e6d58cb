#include "pipeline/report_lists.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/counted.h"

namespace metal_marlin {

using nlohmann::json;

std::string few_tokens_text(const json& entry) {
  return fmt::format("{}: {} for {}", entry.value("name", std::string()),
                     counted(entry.value("tokens", int64_t{0}), "token"),
                     counted(entry.value("in_features", int64_t{0}), "channel"));
}

std::string clamped_text(const json& entry) {
  std::vector<std::string> parts;
  const auto number = [&](const char* key) {
    const auto it = entry.find(key);
    return it != entry.end() && it->is_number() ? it->get<double>() : 0.0;
  };
  const auto count = [&](const char* key, const char* what) {
    if (number(key) > 0) parts.push_back(fmt::format("{}: {:.0f}", what, number(key)));
  };
  count("clamped", "values beyond the largest float16, clamped");
  if (number("clamped") > 0 && number("largest") > 0)
    parts.back() += fmt::format(" (largest {:.4g})", number("largest"));
  count("flushed", "values too small for a float16, now 0");
  count("clamped_scales", "scales beyond the largest float16, clamped");
  count("raised_scales", "scales below the least normal float16, raised to it");
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string rounding_choice_text(const json& choice) {
  const auto n = [&](const char* key) { return choice.value(key, int64_t{0}); };
  std::vector<std::pair<double, std::string>> dampings;
  const json counts = choice.value("damping", json::object());
  for (const auto& [damping, count] : counts.items()) {
    if (count.is_number())
      dampings.emplace_back(std::strtod(damping.c_str(), nullptr),
                            fmt::format("{} for {}", damping, count.get<int64_t>()));
  }
  std::sort(dampings.begin(), dampings.end());
  std::vector<std::string> texts;
  for (const auto& [damping, text] : dampings) texts.push_back(text);
  return fmt::format(
      "Rounding chosen on {} of the validation split: {} refined, {} with feedback only, {} to nearest ({} "
      "with less than "
      "the recipe's steps){}{}",
      counted(n("sequences"), "sequence"), n("refined"), n("feedback"), n("nearest"), n("fallbacks"),
      texts.empty() ? "" : "; damping ", fmt::join(texts, ", "));
}

std::vector<std::pair<std::string, size_t>> names_by_kind(const json& names) {
  std::vector<std::pair<std::string, size_t>> kinds;
  for (const json& entry : names) {
    const auto name = entry.get<std::string>();
    std::string kind;
    for (size_t at = 0; at <= name.size();) {  // parts between dots
      const size_t end = std::min(name.find('.', at), name.size());
      const std::string part = name.substr(at, end - at);
      const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      kind += (at == 0 ? "" : ".") + (number ? std::string("*") : part);
      at = end + 1;
    }
    const auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& known) { return known.first == kind; });
    if (it == kinds.end()) {
      kinds.emplace_back(kind, 1);
    } else {
      ++it->second;
    }
  }
  return kinds;
}

}  // namespace metal_marlin
