// How the front ends name options in messages.
#pragma once

#include <string>

namespace metal_marlin {

// The library names options as the command line does ("--group-size 64"). The same text for Python: `group_size=64`,
// `guard=False`, `overwrite=True`, `gram=False` for --no-gram, `samples` where no value follows. Words behind "--" that
// are no option stay.
std::string python_spelling(const std::string& text);
// The parameter of Python that is the option `name` (ArgumentError::option()): "formats" of "format".
std::string python_parameter(const std::string& name);

}  // namespace metal_marlin
