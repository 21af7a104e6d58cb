#include "tokenizer/interrupt.h"

#include <metal_marlin/interrupt.h>

#include <atomic>

#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {
namespace {

using Asked = bool (*)() noexcept;
std::atomic<Asked> check{nullptr};

}  // namespace

bool interrupt_asked() noexcept {
  const Asked asked = check.load();
  return asked != nullptr && asked();
}

extern "C" {
static int metal_marlin_interrupt_asked() {
  return interrupt_asked() ? 1 : 0;
}
}

void set_interrupt_check(Asked asked) noexcept {
  check.store(asked);
  tokenizer_c_set_stop(asked == nullptr ? nullptr : metal_marlin_interrupt_asked);
}

}  // namespace metal_marlin
