// What set_interrupt_check() of metal_marlin/interrupt.h was given, asked from inside the library.
#pragma once

namespace metal_marlin {

// Whether the caller wants the work to stop; false where no check is set. Cheap: ask it between pieces of work.
bool interrupt_asked() noexcept;

}  // namespace metal_marlin
