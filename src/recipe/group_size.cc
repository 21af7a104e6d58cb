#include "recipe/group_size.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include "layouts/layouts.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {
namespace {

constexpr int64_t kStep = 8;     // of group sizes: nibbles are packed by eight
constexpr int64_t kUsual = 256;  // larger groups are not worth a suggestion
constexpr size_t kSuggestions = 4;
constexpr int64_t kPreferred[] = {128, 64, 32};

struct Linear {
  std::string name;
  int64_t rows = 0;
  int64_t columns = 0;
};

class GroupSizes {
 public:
  GroupSizes(const ModelSource& source, const QuantizeOptions& options) : bits_(options.bits) {
    for (const std::string& format : options.formats) layouts_.push_back(&layout_named(format));
    std::set<std::tuple<std::string, int64_t, int64_t>> seen;
    for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
      const std::string prefix = fmt::format("{}{}.", source.family().layer_prefix, layer);
      for (const QuantizedWeight& w : layer_tensors(source, layer, options).quantized) {
        const std::string module = w.name.starts_with(prefix) ? w.name.substr(prefix.size()) : w.name;
        const Linear linear{w.name, w.rows, w.columns};
        if (seen.emplace(module, w.rows, w.columns).second && holdable(linear)) linears_.push_back(linear);
      }
    }
  }

  bool empty() const noexcept { return linears_.empty(); }
  bool fits_all(int64_t size) const {
    return std::all_of(linears_.begin(), linears_.end(), [&](const Linear& l) { return fits(l, size); });
  }
  // Linears whose in_features `size` does not divide, each as "name (in_features n)".
  std::vector<std::string> indivisible(int64_t size) const {
    std::vector<std::string> names;
    for (const Linear& l : linears_) {
      if (l.columns % size != 0) names.push_back(fmt::format("{} (in_features {})", l.name, l.columns));
    }
    return names;
  }
  // "these fit every linear: 16, 8, or -1 (one group per row)".
  std::string advice() const {
    int64_t common = 0;
    for (const Linear& l : linears_) common = std::gcd(common, l.columns);
    std::vector<std::string> sizes;
    for (int64_t size = std::min(common, kUsual) / kStep * kStep; size >= kStep && sizes.size() < kSuggestions;
         size -= kStep) {
      if (common % size == 0 && fits_all(size)) sizes.push_back(fmt::format("{}", size));
    }
    if (fits_all(-1)) sizes.push_back("-1 (one group per row)");
    if (sizes.empty())
      return "no size fits every linear in these formats; leave some in 16 bits with --skip, or choose another "
             "--format";
    return fmt::format("these fit every linear: {}", fmt::join(sizes, ", "));
  }

 private:
  bool fits(const Linear& l, int64_t size) const {
    if (size > 0 && l.columns % size != 0) return false;
    const int64_t group = size > 0 ? size : l.columns;
    return std::all_of(layouts_.begin(), layouts_.end(),
                       [&](const Layout* layout) { return layout->refusal(l.rows, l.columns, group, bits_).empty(); });
  }
  bool holdable(const Linear& l) const {
    for (int64_t size = kStep; size <= l.columns; size += kStep) {
      if (fits(l, size)) return true;
    }
    return fits(l, -1);
  }

  int bits_;
  std::vector<const Layout*> layouts_;
  std::vector<Linear> linears_;
};

}  // namespace

int64_t resolve_group_size(const ModelSource& source, const QuantizeOptions& options) {
  if (options.group_size == -1) return -1;
  const GroupSizes sizes(source, options);
  if (!options.group_size) {
    for (const int64_t preferred : kPreferred) {
      if (sizes.empty() || sizes.fits_all(preferred)) return preferred;
    }
    std::vector<std::string> names;
    for (const int64_t preferred : kPreferred) {
      if (names.empty() || sizes.indivisible(preferred).size() < names.size()) names = sizes.indivisible(preferred);
    }
    throw ArgumentError("group-size", fmt::format("--group-size auto: none of 128, 64, 32 fits every linear{}{}; {}",
                                                  names.empty() ? "" : ": 32 does not divide ", fmt::join(names, ", "),
                                                  sizes.advice()));
  }
  const int64_t size = *options.group_size;
  if (const auto names = sizes.indivisible(size); !names.empty()) {
    throw ArgumentError("group-size", fmt::format("--group-size {}: does not divide the in_features of {}; {}", size,
                                                  fmt::join(names, ", "), sizes.advice()));
  }
  return size;
}

}  // namespace metal_marlin
