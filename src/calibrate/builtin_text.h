// Calibration text that comes with the program: short pieces of code, dialogue, letters, markup, tables, mathematics,
// logs and other languages, so mixed that every few hundred tokens hold several kinds. Written for this project.
//
// Text of one kind leaves channels unseen that others excite: web pages without line breaks say nothing of indented
// code. What it does is measured in docs/accuracy.md. Its bytes decide the bytes of quantized models: do not edit it
// without measuring anew.
#pragma once

#include <string_view>

namespace metal_marlin {

// UTF-8; about 10,000 tokens.
std::string_view builtin_text() noexcept;

}  // namespace metal_marlin
