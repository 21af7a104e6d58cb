// Stopping what reports no progress: the tokenizer and the chat template of a model's files, which may take seconds.
#pragma once

#include <metal_marlin/export.h>

namespace metal_marlin {

// `asked` is called now and then, from any thread, while such a step runs; when it answers true, the step ends within a
// tenth of a second with Interrupted. nullptr, as at the start: nobody is asked. For the whole process.
METAL_MARLIN_API void set_interrupt_check(bool (*asked)() noexcept) noexcept;

}  // namespace metal_marlin
