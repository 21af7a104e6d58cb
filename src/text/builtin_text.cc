#include "text/builtin_text.h"

#include <builtin_text_data.h>  // made by CMake of builtin_text.txt

namespace metal_marlin {

std::string_view builtin_text() noexcept {
  return kBuiltinTextData;
}

}  // namespace metal_marlin
