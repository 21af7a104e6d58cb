// Stopping between reports of progress: the tokenizer and the chat template of a model's files, the blocks of a large
// model.
#pragma once

#include <metal_marlin/export.h>

namespace metal_marlin {

// `asked` is called now and then, from any thread, while such a step runs; when it answers true, the step ends soon,
// within a tenth of a second for texts and most models, with Interrupted. nullptr, as at the start: nobody is asked.
// For the whole process.
METAL_MARLIN_API void set_interrupt_check(bool (*asked)() noexcept) noexcept;

}  // namespace metal_marlin
