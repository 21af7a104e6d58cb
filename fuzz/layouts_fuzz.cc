// Every layout that is read, through its class, as a checkpoint's reader asks it: any config, types, shapes and bytes
// give a tensor on its grid, or an Error.
#include <fuzzer/FuzzedDataProvider.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "core/values.h"
#include "fuzz_input.h"
#include "fuzz_tensors.h"
#include "layouts/layouts.h"

namespace metal_marlin {
namespace {

constexpr int64_t kGroups[] = {-1, 8, 16, 32, 64, 128, 1, 0, 3, 1 << 20};
constexpr int kBits[] = {4, 3, 8, 2, 5, 6, 1, 7};

// The parts that a linear of these sizes has, whole groups of them.
std::vector<TensorInfo> parts_of(const StoredLayout& layout, const PartNames& names, const QuantizedLinear& l) {
  const int64_t groups = std::max<int64_t>(1, l.in_features / l.group_size);
  const int64_t padded = (groups + 31) / 32 * 32;  // of gemv at groups of 32
  const std::string name = layout.name();
  if (name == "awq_gemv") {
    return {{".qweight", DType::kI32, {l.out_features, l.in_features / 8}},
            {".qzeros", DType::kI32, {l.out_features, padded / 8}},
            {".scales", DType::kF16, {l.out_features, padded}}};
  }
  if (name == "awq_gemv_fast") {
    return {{".qweight", DType::kI16, {l.out_features / 4, l.in_features}},
            {names.zeros, DType::kF16, {padded, l.out_features}},
            {".scales", DType::kF16, {padded, l.out_features}}};
  }
  if (name == "hqq") {
    const int64_t all = l.out_features * groups;
    const int64_t together = l.bits == 3 ? 10 : 8 / l.bits;
    const bool both = *names.zeros == '\0';
    return {{".W_q", l.bits == 3 ? DType::kI32 : DType::kU8, {(all + together - 1) / together, l.group_size}},
            {names.scales, DType::kF16, both ? std::vector<int64_t>{2, all, 1} : std::vector<int64_t>{all, 1}},
            {".zero", DType::kF16, {all, 1}},
            {".shape", DType::kI64, {2}},
            {".nbits", DType::kI32, {1}},
            {".axis", DType::kI32, {1}}};
  }
  if (names.floats_alike) {
    return {{".weight", DType::kI8, {l.out_features, l.in_features}},
            {".weight_scale", DType::kF16, {l.out_features, groups}},
            {".weight_zero_point", DType::kI8, {l.out_features, groups}}};
  }
  std::vector<TensorInfo> parts = static_cast<const Layout&>(layout).parts(l);
  for (TensorInfo& part : parts) part.name.insert(0, ".");
  return parts;
}

}  // namespace
}  // namespace metal_marlin

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  FuzzedDataProvider input(data, size);
  const auto layouts = stored_layouts();
  const StoredLayout& layout = *layouts[input.ConsumeIntegralInRange<size_t>(0, layouts.size() - 1)];
  const auto all_names = layout.part_names();
  const PartNames& names = all_names[input.ConsumeIntegralInRange<size_t>(0, all_names.size() - 1)];
  QuantizedLinear linear;
  linear.name = "fuzz.weight";
  linear.bits = input.PickValueInArray(kBits);
  linear.symmetric = input.ConsumeBool();
  const int64_t group = input.PickValueInArray(kGroups);
  linear.group_size = group > 0 ? group : 32;
  linear.in_features = linear.group_size > 128 ? 64 : linear.group_size * input.ConsumeIntegralInRange<int64_t>(1, 4);
  linear.out_features =
      input.ConsumeIntegralInRange<int64_t>(1, 10) * (int64_t{1} << input.ConsumeIntegralInRange(0, 4));
  PackedConfig config;
  config.layout = &layout;
  config.file = "fuzz";
  config.bits = linear.bits;
  config.group_size = group;
  config.bits_stated = input.ConsumeBool();
  config.by_shape = config.bits_by_shape = input.ConsumeBool();
  fuzz::Tensors tensors(input);
  std::deque<TensorView> views;
  PackedLinear l;
  l.names = &names;
  l.bits = linear.bits;
  l.notes.assign(names.notes.size(), nullptr);
  for (const TensorInfo& part : parts_of(layout, names, linear)) {
    const TensorView* view = &views.emplace_back(tensors.make(part.dtype, part.shape));
    if (part.dtype == DType::kI64 && view->bytes.size() == 16 && input.ConsumeIntegralInRange(0, 7) > 0) {
      const int64_t sizes[] = {linear.out_features, linear.in_features};  // a shape that fits the others
      view = &views.emplace_back(*view);
      views.back().bytes = tensors.keep(std::as_bytes(std::span(sizes)));
    }
    if (part.name == names.codes) l.codes = view;
    if (part.name == names.scales) l.scales = view;
    if (part.name == names.zeros && (!names.zeros_optional || input.ConsumeBool())) l.zeros = view;
    if (part.name == names.channels && input.ConsumeBool()) l.channels = view;
    if (part.name == names.shape) l.shape = view;
    for (size_t i = 0; i < names.notes.size(); ++i) {
      if (part.name == names.notes[i] && input.ConsumeIntegralInRange(0, 3) == 0) l.notes[i] = view;
    }
  }
  const Codes codes = input.ConsumeIntegralInRange(0, 3) == 0 ? Codes::kSkip : Codes::kRead;
  try {
    layout.describe(config, "fuzz", "fuzz", l);
    const std::vector<int64_t> shape = layout.logical_shape(l, "fuzz");
    const QuantizedTensor t = layout.unpack(l, l.group_size != 0 ? l.group_size : group, "fuzz", codes);
    fuzz::require(shape == std::vector<int64_t>{t.out_features, t.in_features},
                  "a linear has the shape it is said to have");
    if (codes == Codes::kSkip || t.codes.empty()) return 0;
    try {
      validate(t, "fuzz");
    } catch (const Error&) {
      fuzz::require(false, "what is read lies on its grid");
    }
    std::vector<float> row(static_cast<size_t>(t.in_features));
    dequantize_rows(t, t.out_features - 1, 1, row.data());
  } catch (const Error&) {
  }
  return 0;
}
