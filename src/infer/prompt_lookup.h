// Drafts for speculation without a second model: what followed the last time the text ended like this.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metal_marlin {

// Looks in `tokens` for the latest earlier place of their last 4, else 3, else 2 tokens, and returns what followed
// there: at most `most` tokens, none where there is no such place. Source: prompt lookup decoding,
// https://github.com/apoorvumang/ prompt-lookup-decoding.
std::vector<int32_t> prompt_lookup(std::span<const int32_t> tokens, int64_t most);

}  // namespace metal_marlin
