// How many sequences each source of a mixture gives, and in which order they stand.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metal_marlin {

// Shares of `total` in proportion to `weights` (> 0) by the largest remainder (Hamilton's method; equal remainders: the
// earlier source), none above its `capacity` (>= 0): what one cannot give, the others do in proportion to their
// weights. The sum is `total`, or that of the capacities where it is smaller. Weights matter by their ratios alone.
std::vector<int64_t> apportion(std::span<const double> weights, std::span<const int64_t> capacity, int64_t total);

// The source of each sequence, so that every beginning of the list holds the sources in about their shares: the j-th
// sequence of a source with `count` of them stands at (j + 1/2) / count, equal places in the order of the sources.
std::vector<int64_t> interleave(std::span<const int64_t> counts);

}  // namespace metal_marlin
