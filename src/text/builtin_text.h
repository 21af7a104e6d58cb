// Calibration text that comes with the program: short pieces of code, dialogue, letters, markup, tables, mathematics,
// logs and other languages. They are mixed so that every few hundred tokens hold several kinds. The text was written
// for this project.
//
// Text of one kind does not excite the channels that other text excites: web pages without line breaks say nothing
// about indented code. docs/accuracy.md measures what this text does. Its bytes decide the bytes of quantized models,
// so do not edit it without measuring again.
#pragma once

#include <string_view>

namespace metal_marlin {

// UTF-8; about 10,000 tokens.
std::string_view builtin_text() noexcept;

}  // namespace metal_marlin
