#include "recipe/ignored_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "options/tables.h"
#include "recipe/presets.h"

namespace metal_marlin {
namespace {

template <class Options>
std::vector<IgnoredOption> without_effect(const OptionTable<Options>& table, const Options& asked,
                                          const Options& in_force, const std::vector<std::string>& given) {
  const Options defaults;
  std::vector<IgnoredOption> ignored;
  for (const auto& row : table.rows()) {
    const std::string reason = row.without_effect ? row.without_effect(asked, in_force) : std::string();
    if (reason.empty()) continue;
    const bool named = std::find(given.begin(), given.end(), row.name) != given.end();
    ignored.push_back({row.name, row.key, reason, named || row.get(asked) != row.get(defaults)});
  }
  return ignored;
}

}  // namespace

std::vector<IgnoredOption> ignored_options(const QuantizeOptions& options) {
  return without_effect(quantize_options(), options, options_in_force(options), options.given);
}

std::vector<IgnoredOption> ignored_options(const CalibrationOptions& options) {
  return without_effect(calibration_options(), options, options, options.given);
}

std::string ignored_options_warning(const std::vector<IgnoredOption>& ignored) {
  std::vector<std::string> parts;
  for (const IgnoredOption& o : ignored) {
    if (o.asked) parts.push_back(fmt::format("--{} ({})", o.name, o.reason));
  }
  return parts.empty() ? std::string() : fmt::format("without effect: {}", fmt::join(parts, ", "));
}

}  // namespace metal_marlin
