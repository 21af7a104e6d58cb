#include "text/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace metal_marlin {

std::vector<int64_t> apportion(std::span<const double> weights, std::span<const int64_t> capacity, int64_t total) {
  const size_t n = weights.size();
  std::vector<int64_t> shares(n, 0);
  std::vector<uint8_t> full(n, 0);
  // A source that cannot give its exact share gives all it has. What is left is divided again until no source is short.
  int64_t left = total;
  double sum = 0;
  const double largest = n > 0 ? *std::max_element(weights.begin(), weights.end()) : 1;
  const auto weight = [&](size_t i) { return weights[i] / largest; };  // sums of large weights do not overflow
  for (bool changed = true; changed;) {
    changed = false;
    sum = 0;
    for (size_t i = 0; i < n; ++i) sum += full[i] != 0 ? 0 : weight(i);
    const int64_t to_share = left;
    for (size_t i = 0; i < n; ++i) {
      if (full[i] != 0 || static_cast<double>(capacity[i]) >= static_cast<double>(to_share) * weight(i) / sum) continue;
      full[i] = 1;
      shares[i] = capacity[i];
      left -= capacity[i];
      changed = true;
    }
  }
  std::vector<size_t> order;
  std::vector<double> remainder(n, 0);
  const int64_t to_share = left;
  for (size_t i = 0; i < n; ++i) {
    if (full[i] != 0) continue;
    const double exact = static_cast<double>(to_share) * weight(i) / sum;
    shares[i] = std::min(capacity[i], static_cast<int64_t>(std::floor(exact)));
    remainder[i] = exact - static_cast<double>(shares[i]);
    left -= shares[i];
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainder[a] > remainder[b]; });
  // Each source gets at most one more, unless the capacity of another is used up.
  for (bool given = true; given && left > 0;) {
    given = false;
    for (const size_t i : order) {
      if (left == 0 || shares[i] == capacity[i]) continue;
      ++shares[i];
      --left;
      given = true;
    }
  }
  return shares;
}

std::vector<int64_t> interleave(std::span<const int64_t> counts) {
  std::vector<int64_t> order;
  std::vector<int64_t> taken(counts.size(), 0);
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  order.reserve(static_cast<size_t>(total));
  while (static_cast<int64_t>(order.size()) < total) {
    size_t next = counts.size();
    double least = 2;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (taken[i] == counts[i]) continue;
      const double place = (static_cast<double>(taken[i]) + 0.5) / static_cast<double>(counts[i]);
      if (place < least) {
        least = place;
        next = i;
      }
    }
    ++taken[next];
    order.push_back(static_cast<int64_t>(next));
  }
  return order;
}

}  // namespace metal_marlin
