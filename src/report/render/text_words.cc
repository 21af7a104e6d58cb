#include "report/render/text_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <vector>

namespace metal_marlin {

std::string calibration_text(const TextRecord& record, const std::optional<TextRecord>& made_from) {
  std::vector<std::string> parts;
  for (const SourceRecord& s : record.sources) {
    std::string text = std::filesystem::path(s.source).filename().string();
    if (s.kind == "self") {
      text = fmt::format("text of the model itself (temperature {:g}, seed {}, sequences of {} tokens)",
                         s.temperature.value_or(0), s.seed ? fmt::format("{}", *s.seed) : std::string("unknown"),
                         s.sequence_length.value_or(0));
    }
    if (s.kind == "builtin") text = "text that comes with metal-marlin";
    if (s.share) {
      text += fmt::format(", {:g} % of the sequences", 100 * *s.share);
    } else if (record.sources.size() > 1) {
      text += fmt::format(", weight {:g}", s.weight.value_or(0));
    }
    const std::string sequences = s.sequences ? fmt::format("{} sequences, ", *s.sequences) : std::string();
    parts.push_back(fmt::format("{}: {}{} tokens", text, sequences, s.tokens));
  }
  std::string out = fmt::format("{}", fmt::join(parts, "; "));
  if (record.selection) {
    out += fmt::format("; of these {} sequences the {} that cover the channels best", record.selection->pool,
                       record.selection->sequences.size());
  }
  if (made_from) {
    const std::string made = calibration_text(*made_from, std::nullopt);
    if (!made.empty()) out += fmt::format(" (made of {})", made);
  }
  return out;
}

std::string calibration_details(const CalibrationRecord& c) {
  const bool one_text = c.sources.size() == 1 && c.sources.front().kind != "self";
  return one_text && !c.selection && !c.made_from ? std::string() : calibration_text(c, c.made_from);
}

}  // namespace metal_marlin
