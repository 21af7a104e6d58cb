#include "infer/prompt_lookup.h"

#include <algorithm>

namespace metal_marlin {

std::vector<int32_t> prompt_lookup(std::span<const int32_t> tokens, int64_t most) {
  if (most <= 0) return {};
  for (size_t n = 4; n >= 2; --n) {
    if (tokens.size() <= n) continue;
    const auto end = tokens.last(n);
    for (size_t at = tokens.size() - n; at-- > 0;) {
      if (!std::equal(end.begin(), end.end(), tokens.begin() + static_cast<int64_t>(at))) continue;
      const auto follows = tokens.subspan(at + n);
      const auto count = std::min(follows.size(), static_cast<size_t>(most));
      return {follows.begin(), follows.begin() + static_cast<int64_t>(count)};
    }
  }
  return {};
}

}  // namespace metal_marlin
