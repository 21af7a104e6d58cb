#include "core/threads.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <omp.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>

namespace metal_marlin {
namespace {

constexpr int kMostThreads = 4096;

// 0 when the text is no number of threads.
int parse_threads(const char* text) noexcept {
  int n = 0;
  const char* end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, n);
  return error == std::errc() && at == end && n >= 1 && n <= kMostThreads ? n : 0;
}

int default_threads() {
  if (const char* text = std::getenv("METAL_MARLIN_THREADS"); text != nullptr) {
    const int n = parse_threads(text);
    if (n >= 1) return n;
  }
  return omp_get_max_threads();
}

std::atomic<int>& count() {
  static std::atomic<int> n{default_threads()};
  return n;
}

}  // namespace

void use_threads(int n) {
  if (n != 0) return set_threads(n);
  const char* text = std::getenv("METAL_MARLIN_THREADS");
  if (text != nullptr && parse_threads(text) == 0) {
    throw ArgumentError(
        fmt::format("METAL_MARLIN_THREADS: expected a whole number from 1 to {}, found '{}'; set it so, or unset it",
                    kMostThreads, text));
  }
}

void set_threads(int n) {
  if (n < 1) throw ArgumentError("threads: expected at least 1");
  count() = n;
}

int threads() noexcept {
  return count();
}

int thread_index() noexcept {
  return omp_get_thread_num();
}

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
