// What the process may do with a path, without trying it.
#pragma once

#include <string>

namespace metal_marlin {

// Why no entry can be made in the folder `path`, in the system's words: "Permission denied". Empty: one can.
std::string refusal_to_write(const std::string& path);

}  // namespace metal_marlin
