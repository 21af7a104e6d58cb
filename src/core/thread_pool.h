// The pool of threads behind parallel_for (core/threads.h).
#pragma once

#include <functional>

namespace metal_marlin {

// Runs work(0) on the calling thread and, as far as threads of the pool get to it before that ends, work(1) ..
// work(helpers) on others; returns when all that began have ended. `work` must not throw, and work(0) must not depend
// on another one having begun. Several threads may call at once: each call has helpers of its own.
void run_on_pool(int helpers, const std::function<void(int)>& work);

}  // namespace metal_marlin
