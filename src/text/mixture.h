// How many sequences each source of a mixture gives, and in which order they come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metal_marlin {

// Divides `total` among the sources in proportion to `weights` (each > 0), by the largest remainder (Hamilton's
// method). Of equal remainders the earlier source wins. No source gives more than its `capacity` (>= 0); the others
// give the rest, in proportion to their weights. The shares add up to `total`, or to the sum of the capacities where
// that is smaller. Only the ratios of the weights matter.
std::vector<int64_t> apportion(std::span<const double> weights, std::span<const int64_t> capacity, int64_t total);

// Returns the source of each sequence. The order is such that every beginning of the list holds the sources in about
// their shares: the j-th sequence of a source with `count` of them has place (j + 1/2) / count. Equal places go in the
// order of the sources.
std::vector<int64_t> interleave(std::span<const int64_t> counts);

}  // namespace metal_marlin
