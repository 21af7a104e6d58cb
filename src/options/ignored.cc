#include "options/ignored.h"

#include <fmt/format.h>

namespace metal_marlin {

std::string ignored_options_warning(const std::vector<IgnoredOption>& ignored) {
  std::string text;
  const IgnoredOption* before = nullptr;
  for (const IgnoredOption& o : ignored) {
    if (!o.asked) continue;
    if (before != nullptr) text += before->reason == o.reason ? ", " : fmt::format(" ({}), ", before->reason);
    text += o.name.empty() ? o.key : "--" + o.name;
    before = &o;
  }
  return before == nullptr ? text : fmt::format("without effect: {} ({})", text, before->reason);
}

}  // namespace metal_marlin
