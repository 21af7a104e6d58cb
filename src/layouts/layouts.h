// The tables of layouts.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "layouts/layout.h"

namespace metal_marlin {

// Those with codes that are written, in the order in which options and messages name them.
std::span<const Layout* const> code_layouts();
// Those with codes that are read: these and the ones that are only read.
std::span<const StoredLayout* const> stored_layouts();
// The names of code_layouts().
const std::vector<std::string>& checkpoint_formats();
// Null: none of this name.
const Layout* find_layout(const std::string& name);
const StoredLayout* find_stored_layout(const std::string& name);
// One of checkpoint_formats(), or "f16", a checkpoint without codes. ArgumentError naming those that are known.
const Layout& layout_named(const std::string& name);

}  // namespace metal_marlin
