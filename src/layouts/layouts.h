// The tables of layouts.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "layouts/layout.h"

namespace metal_marlin {

// Those of safetensors with codes that are written, in the order in which options and messages name them.
std::span<const Layout* const> code_layouts();
// GGUF's.
std::span<const Layout* const> gguf_layouts();
// Checkpoints without codes, which only `convert` writes: "f16", "gguf:F16", "gguf:BF16".
std::span<const Layout* const> float_layouts();
// Those of safetensors with codes that are read: code_layouts() and the ones that are only read.
std::span<const StoredLayout* const> stored_layouts();
// The names of code_layouts() and gguf_layouts().
const std::vector<std::string>& checkpoint_formats();
// Null: none of this name.
const Layout* find_layout(const std::string& name);
const StoredLayout* find_stored_layout(const std::string& name);
// Its folder(); a name that no layout has stays.
std::string format_folder(const std::string& format);
// Of find_layout(). ArgumentError naming checkpoint_formats().
const Layout& layout_named(const std::string& name);

}  // namespace metal_marlin
