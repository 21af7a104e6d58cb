#include "text/builtin_text.h"

#include <embedded/kBuiltinText.h>

namespace metal_marlin {

std::string_view builtin_text() noexcept {
  return kBuiltinText;
}

}  // namespace metal_marlin
