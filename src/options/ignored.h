// Options that have no effect beside others: one rule for every table.
#pragma once

#include <string>
#include <vector>

#include "options/option_table.h"

namespace metal_marlin {

struct IgnoredOption {
  std::string name;  // "salient-ratio"
  std::string key;   // "salient_ratio"
  std::string reason;
  bool asked = false;  // unlike its default (set, where that is empty), and not merely switched off
};

// All of them, in the order of the table. `asked`: as the caller gave them, `in_force`: with all that follows from
// others filled in.
template <class Options>
std::vector<IgnoredOption> ignored_of(const OptionTable<Options>& table, const Options& asked,
                                      const Options& in_force) {
  const Options defaults;
  std::vector<IgnoredOption> ignored;
  for (const auto& row : table.rows()) {
    std::string reason = row.without_effect ? row.without_effect(asked, in_force) : std::string();
    if (reason.empty()) continue;
    const OptionValue value = row.get(asked);
    const bool off = value == OptionValue(false);  // asks for nothing
    ignored.push_back({row.name, row.key, std::move(reason), !off && value != row.get(defaults)});
  }
  return ignored;
}

// "without effect: --damping (only gptq uses it), --seed, --temperature (only ...)": those that were asked for;
// neighbours with one reason share it. Empty: none were.
std::string ignored_options_warning(const std::vector<IgnoredOption>& ignored);

}  // namespace metal_marlin
