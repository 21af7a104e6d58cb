#include "arrays/awq_layout.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "arrays/array_input.h"
#include "core/counted.h"
#include "core/machine.h"
#include "pack/native.h"
#include "statistics/statistics.h"

namespace metal_marlin {

int64_t padded_in_features(int64_t in_features, int64_t group_size) {
  const int64_t unit = group_size % kFp4PerU32 == 0 ? group_size : std::lcm(group_size, int64_t{kFp4PerU32});
  if (in_features > std::numeric_limits<int64_t>::max() - unit) {
    throw ArgumentError("group_size",
                        fmt::format("group_size: {} is too large for {} inputs", group_size, in_features));
  }
  return (in_features + unit - 1) / unit * unit;
}

NativeArrays native_arrays(QuantizedTensor t) {
  const int64_t kept_groups = t.groups();
  const int64_t padded = padded_in_features(t.in_features, t.group_size);
  if (padded != t.in_features) {
    QuantizedTensor wide{t.out_features, padded, t.group_size, t.bits, t.symmetric, {}, {}, {}};
    const auto n = static_cast<size_t>(t.out_features);
    const auto k = static_cast<size_t>(t.in_features);
    const auto groups = static_cast<size_t>(kept_groups);
    const auto wide_groups = static_cast<size_t>(wide.groups());
    wide.codes.resize(n * static_cast<size_t>(padded));
    wide.scales.assign(n * wide_groups, 0);
    wide.zeros.assign(n * wide_groups, 8);
    for (size_t r = 0; r < n; ++r) {
      std::copy_n(t.scales.begin() + static_cast<int64_t>(r * groups), groups,
                  wide.scales.begin() + static_cast<int64_t>(r * wide_groups));
      std::copy_n(t.zeros.begin() + static_cast<int64_t>(r * groups), groups,
                  wide.zeros.begin() + static_cast<int64_t>(r * wide_groups));
      uint8_t* to = wide.codes.data() + r * static_cast<size_t>(padded);
      std::copy_n(t.codes.data() + r * k, k, to);
      for (auto c = static_cast<int64_t>(k); c < padded; ++c) {
        to[c] = wide.zeros[r * wide_groups + static_cast<size_t>(c / t.group_size)];
      }
    }
    t = std::move(wide);
  }
  const PackedTensor packed = pack_native(t, "weights");
  const auto part = [&](const char* name, ElementType type, int64_t rows) {
    return copy_array(type, {rows, t.out_features}, packed.find(name)->bytes.data());
  };
  return {part("weight", ElementType::kU32, padded / kFp4PerU32), part("weight.scales", ElementType::kF16, kept_groups),
          part("weight.zeros", ElementType::kF16, kept_groups)};
}

ActivationStats collect_stats(const ArrayView& activations, bool gram, const Observer& observer) {
  StatsCollector collector(gram);
  int64_t seen = 0;
  for_each_batch(activations, "activations", [&](const float* rows, int64_t count) {
    report_stage(observer, "statistics", seen, token_count(activations));
    collector.add(LinearInput::kQkv, rows, count, activations.shape.back());
    seen += count;
  });
  return std::move(collector.finish([](LinearInput) { return std::string("activations"); })[0]);
}

void require_held_scales(int64_t clamped_groups, const char* name) {
  if (clamped_groups == 0) return;
  throw NumericError(
      fmt::format("{}: expected values whose group scales float16 can hold (at most 65504), found {} that {} it; "
                  "divide the weights "
                  "by a constant",
                  name, counted(clamped_groups, "group"), form_for(clamped_groups, "exceeds", "exceed")));
}

AWQMeta meta_of(const QuantizedTensor& tensor, const std::string& scheme, const LinearErrors& errors) {
  AWQMeta meta;
  meta.in_features = tensor.in_features;
  meta.out_features = tensor.out_features;
  meta.group_size = tensor.group_size;
  meta.padded_in_features = padded_in_features(tensor.in_features, tensor.group_size);
  meta.scheme = scheme;
  meta.output_error = measured(errors.output_error);
  meta.weight_error = errors.weight_error;
  return meta;
}

Grid grid_of(const std::string& scheme, int64_t group_size) {
  if (scheme != "sym" && scheme != "asym") {
    throw ArgumentError("scheme", fmt::format("scheme: expected \"sym\" or \"asym\", found \"{}\"", scheme));
  }
  return {kAwqQuantBits, scheme == "sym", group_size};
}

void report_stage(const Observer& observer, const char* stage, int64_t done, int64_t total) {
  if (!observer.on_progress) return;
  Progress progress;
  progress.stage = stage;
  progress.done = done;
  progress.total = total;
  progress.resident_bytes = resident_bytes();
  if (!observer.on_progress(progress)) throw Interrupted("stopped by the caller");
}

}  // namespace metal_marlin
