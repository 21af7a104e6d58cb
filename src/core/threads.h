// Work shared between threads so that the result does not depend on how many there are: a loop over tiles whose
// number and bounds follow from the data alone; each tile runs on one thread, library calls inside it single-threaded.
#pragma once

#include <cstdint>
#include <functional>

namespace metal_marlin {

// Number of threads for parallel_for from now on; n >= 1. Default: METAL_MARLIN_THREADS, else OMP_NUM_THREADS, else
// the processors this process may use.
void set_threads(int n);
// n > 0: as set_threads; 0: the number stays, and METAL_MARLIN_THREADS is checked: ArgumentError when it is no number.
void use_threads(int n);
int threads() noexcept;

// Calls fn(i) for i in 0..count-1, dynamically scheduled. The first exception thrown by a call is rethrown here after
// the others have ended. Nested calls run serially.
void parallel_for(int64_t count, const std::function<void(int64_t)>& fn);

// Number of the calling thread inside parallel_for, 0..threads()-1 (0 outside): for scratch memory per thread.
int thread_index() noexcept;

}  // namespace metal_marlin
