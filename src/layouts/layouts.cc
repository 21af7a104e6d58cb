#include "layouts/layouts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>

namespace metal_marlin {

// Each in the file of its name.
const Layout& native_layout();
const Layout& awq_layout();
const Layout& gptq_layout();
const Layout& gptq_v2_layout();
const Layout& marlin_layout();
const Layout& compressed_tensors_layout();
const Layout& mlx_layout();
const Layout& f16_layout();
const Layout& gguf_f16_layout();
const Layout& gguf_bf16_layout();
const StoredLayout& awq_gemv_layout();
const StoredLayout& awq_gemv_fast_layout();
const StoredLayout& hqq_layout();

std::span<const Layout* const> code_layouts() {
  static const Layout* const kLayouts[] = {&native_layout(),  &awq_layout(),    &gptq_layout(),
                                           &gptq_v2_layout(), &marlin_layout(), &compressed_tensors_layout(),
                                           &mlx_layout()};
  return kLayouts;
}

std::span<const Layout* const> float_layouts() {
  static const Layout* const kLayouts[] = {&f16_layout(), &gguf_f16_layout(), &gguf_bf16_layout()};
  return kLayouts;
}

std::span<const StoredLayout* const> stored_layouts() {
  static const std::vector<const StoredLayout*> kLayouts = [] {
    std::vector<const StoredLayout*> layouts(code_layouts().begin(), code_layouts().end());
    layouts.insert(layouts.end(), {&awq_gemv_layout(), &awq_gemv_fast_layout(), &hqq_layout()});
    return layouts;
  }();
  return kLayouts;
}

const std::vector<std::string>& checkpoint_formats() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Layout* layout : code_layouts()) names.emplace_back(layout->name());
    for (const Layout* layout : gguf_layouts()) names.emplace_back(layout->name());
    return names;
  }();
  return kNames;
}

const Layout* find_layout(const std::string& name) {
  for (const auto& table : {code_layouts(), gguf_layouts(), float_layouts()}) {
    const auto it = std::find_if(table.begin(), table.end(), [&](const Layout* l) { return name == l->name(); });
    if (it != table.end()) return *it;
  }
  return nullptr;
}

std::string format_folder(const std::string& format) {
  const Layout* layout = find_layout(format);
  return layout != nullptr ? layout->folder() : format;
}

const StoredLayout* find_stored_layout(const std::string& name) {
  const auto layouts = stored_layouts();
  const auto it =
      std::find_if(layouts.begin(), layouts.end(), [&](const StoredLayout* l) { return name == l->name(); });
  return it == layouts.end() ? nullptr : *it;
}

const Layout& layout_named(const std::string& name) {
  if (const Layout* layout = find_layout(name)) return *layout;
  throw ArgumentError(
      fmt::format("unknown checkpoint format \"{}\": known are {}", name, fmt::join(checkpoint_formats(), ", ")));
}

}  // namespace metal_marlin
