#include "core/threads.h"

#include <metal_marlin/error.h>
#include <omp.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>

namespace metal_marlin {
namespace {

int default_threads() {
  if (const char* text = std::getenv("METAL_MARLIN_THREADS"); text != nullptr) {
    const int n = std::atoi(text);
    if (n >= 1) return n;
  }
  return omp_get_max_threads();
}

std::atomic<int>& count() {
  static std::atomic<int> n{default_threads()};
  return n;
}

}  // namespace

void set_threads(int n) {
  if (n < 1) throw ArgumentError("threads: expected at least 1");
  count() = n;
}

int threads() noexcept { return count(); }

int thread_index() noexcept { return omp_get_thread_num(); }

void parallel_for(int64_t n, const std::function<void(int64_t)>& fn) {
  std::exception_ptr error;
  std::mutex mutex;
  std::atomic<bool> stop{false};
  // A team of one is no active parallel region for OpenMP: library calls inside tiles guard themselves (kernels/).
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads())
  for (int64_t i = 0; i < n; ++i) {
    if (stop.load(std::memory_order_relaxed)) continue;
    try {
      fn(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace metal_marlin
