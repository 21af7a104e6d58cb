// Work shared between threads so that the result does not depend on how many there are: a loop over tiles whose
// number and bounds follow from the data alone; each tile runs on one thread, library calls inside it single-threaded.
//
// The threads are one pool of this process. They are started when a loop first wants them, wait for about 20
// microseconds after their last tile, and then sleep. A process that forks gets a new pool in the child.
#pragma once

#include <cstdint>
#include <functional>

namespace metal_marlin {

// How many threads the loops of the calling thread use while the object lives. Every public function makes one from
// its options; two functions that run at once in two threads therefore have numbers of their own.
enum class DefaultThreads : uint8_t {
  kProcessors,
  kCores,  // for work that is bound by memory, which a core's second thread does not make faster
};

class ThreadCount {
 public:
  // Keeps the number of an outer scope; without one: as ThreadCount(0).
  ThreadCount();
  // n: 1 to 4096; 0: all processors or cores that this process may use, as available_threads() finds them now.
  // ArgumentError for another n, and for 0 where METAL_MARLIN_THREADS is no number.
  explicit ThreadCount(int n, DefaultThreads of_zero = DefaultThreads::kProcessors);
  ~ThreadCount();
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

// METAL_MARLIN_THREADS, else OMP_NUM_THREADS, else the processors that this process may use: those of its affinity
// mask, or their cores, at most the quota of its control group, rounded up. ArgumentError where METAL_MARLIN_THREADS is
// no number.
int available_threads(DefaultThreads of = DefaultThreads::kProcessors);

// Threads that parallel_for uses here and now. Outside of any ThreadCount: available_threads(), or 1 where that throws.
int threads() noexcept;

// Calls fn(i) for i in 0..count-1, dynamically scheduled, on the calling thread and up to threads() - 1 of the pool.
// The first exception thrown by a call is rethrown here after the others have ended. Nested calls run serially. Where
// the system refuses to start a thread the loop runs on fewer.
void parallel_for(int64_t count, const std::function<void(int64_t)>& fn);

// Number of the calling thread inside parallel_for, 0..threads()-1 (0 outside): for scratch memory per thread. Two
// loops that run at once use the same numbers.
int thread_index() noexcept;

}  // namespace metal_marlin
