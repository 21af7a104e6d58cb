#include "core/interrupt.h"

#include <metal_marlin/interrupt.h>

#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {

extern "C" {
static int metal_marlin_interrupt_asked() {
  return interrupt_asked() ? 1 : 0;
}
}

void set_interrupt_check(bool (*asked)() noexcept) noexcept {
  interrupt_check.store(asked);
  tokenizer_c_set_stop(asked == nullptr ? nullptr : metal_marlin_interrupt_asked);
}

}  // namespace metal_marlin
