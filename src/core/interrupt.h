// What set_interrupt_check() of metal_marlin/interrupt.h was given, asked from inside the library.
#pragma once

#include <metal_marlin/error.h>

#include <atomic>

namespace metal_marlin {

// Set by set_interrupt_check(), which tells the tokenizer's library too.
inline std::atomic<bool (*)() noexcept> interrupt_check{nullptr};

// Whether the caller wants the work to stop; false where no check is set. Cheap, and from any thread: ask it between
// pieces of work that take a few tenths of a second or less.
inline bool interrupt_asked() noexcept {
  const auto asked = interrupt_check.load();
  return asked != nullptr && asked();
}

// Throws Interrupted when interrupt_asked().
inline void stop_if_asked() {
  if (interrupt_asked()) throw Interrupted("interrupted");
}

}  // namespace metal_marlin
