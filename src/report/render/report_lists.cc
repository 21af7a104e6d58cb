#include "report/render/report_lists.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "core/counted.h"

namespace metal_marlin {

std::string few_tokens_text(const FewTokensRecord& entry) {
  return fmt::format("{}: {} for {}", entry.name, counted(entry.tokens, "token"),
                     counted(entry.in_features, "channel"));
}

std::vector<std::pair<std::string, StageRecord>> stages_by_time(const RunRecord& run) {
  std::vector<std::pair<std::string, StageRecord>> stages;
  for (const auto& [name, time] : run.stages) {
    if (time.seconds >= 0.005) stages.emplace_back(name, time);
  }
  std::stable_sort(stages.begin(), stages.end(),
                   [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  return stages;
}

std::string clamped_text(const ClampedRecord& entry) {
  std::vector<std::string> parts;
  const auto count = [&](const std::optional<int64_t>& number, const char* what) {
    if (number.value_or(0) > 0) parts.push_back(fmt::format("{}: {}", what, *number));
  };
  count(entry.clamped, "values beyond the largest float16, clamped");
  if (entry.clamped.value_or(0) > 0 && entry.largest.value_or(0) > 0)
    parts.back() += fmt::format(" (largest {:.4g})", *entry.largest);
  count(entry.flushed, "values too small for a float16, now 0");
  count(entry.clamped_scales, "scales beyond the largest float16, clamped");
  count(entry.raised_scales, "scales below the least normal float16, raised to it");
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string rounding_choice_text(const RoundingRecord& choice) {
  std::vector<std::pair<double, std::string>> dampings;
  for (const auto& [damping, count] : choice.damping)
    dampings.emplace_back(std::strtod(damping.c_str(), nullptr), fmt::format("{} for {}", damping, count));
  std::sort(dampings.begin(), dampings.end());
  std::vector<std::string> texts;
  for (const auto& [damping, text] : dampings) texts.push_back(text);
  return fmt::format(
      "Rounding chosen on {} of the validation split: {} refined, {} with feedback only, {} to nearest ({} with less "
      "than the recipe's steps){}{}",
      counted(choice.sequences, "sequence"), choice.refined, choice.feedback, choice.nearest, choice.fallbacks,
      texts.empty() ? "" : "; damping ", fmt::join(texts, ", "));
}

std::vector<std::pair<std::string, size_t>> names_by_kind(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, size_t>> kinds;
  for (const std::string& name : names) {
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
