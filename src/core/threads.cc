#include "core/threads.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>

#include "core/processors.h"
#include "core/thread_pool.h"

namespace metal_marlin {
namespace {

constexpr int kMostThreads = 4096;

thread_local int scope_threads = 0;  // of the innermost ThreadCount; 0: there is none
thread_local int index_in_loop = 0;
thread_local bool in_loop = false;

// 0 when the text up to `end` is no number of threads.
int parse_threads(const char* text, const char* end) noexcept {
  int n = 0;
  const auto [at, error] = std::from_chars(text, end, n);
  return error == std::errc() && at == end && n >= 1 && n <= kMostThreads ? n : 0;
}

// What a thread is while it does tiles of a loop.
class InLoop {
 public:
  InLoop(int index, int count) noexcept
      : before_count_(scope_threads), before_index_(index_in_loop), before_in_(in_loop) {
    scope_threads = count;
    index_in_loop = index;
    in_loop = true;
  }
  ~InLoop() {
    scope_threads = before_count_;
    index_in_loop = before_index_;
    in_loop = before_in_;
  }
  InLoop(const InLoop&) = delete;
  InLoop& operator=(const InLoop&) = delete;

 private:
  int before_count_;
  int before_index_;
  bool before_in_;
};

}  // namespace

int available_threads(DefaultThreads of) {
  if (const char* text = std::getenv("METAL_MARLIN_THREADS"); text != nullptr) {
    const int n = parse_threads(text, text + std::strlen(text));
    if (n == 0) {
      throw ArgumentError(
          fmt::format("METAL_MARLIN_THREADS: expected a whole number from 1 to {}, found '{}'; set it so, or unset it",
                      kMostThreads, text));
    }
    return n;
  }
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr) {
    // A list names a number for each level of nesting.
    if (const int n = parse_threads(text, text + std::strcspn(text, ",")); n > 0) return n;
  }
  return std::min(of == DefaultThreads::kCores ? usable_cores() : usable_processors(), kMostThreads);
}

ThreadCount::ThreadCount() : before_(scope_threads) {
  if (before_ == 0) scope_threads = available_threads();
}

ThreadCount::ThreadCount(int n, DefaultThreads of_zero) : before_(scope_threads) {
  if (n < 0 || n > kMostThreads) {
    throw ArgumentError("threads",
                        fmt::format("--threads: expected 1 to {}, or 0 for all processors, found {}", kMostThreads, n));
  }
  scope_threads = n == 0 ? available_threads(of_zero) : n;
}

ThreadCount::~ThreadCount() {
  scope_threads = before_;
}

int threads() noexcept {
  if (scope_threads > 0) return scope_threads;
  try {
    return available_threads();
  } catch (...) {
    return 1;
  }
}

int thread_index() noexcept {
  return index_in_loop;
}

void parallel_for(int64_t count, const std::function<void(int64_t)>& fn) {
  if (count <= 0) return;
  const int all = threads();
  const int most = in_loop ? 1 : static_cast<int>(std::min<int64_t>(all, count));
  if (most == 1) {
    const InLoop state(index_in_loop, all);
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::mutex mutex;
  run_on_pool(most - 1, [&](int index) {
    const InLoop state(index, all);
    while (!stop.load(std::memory_order_relaxed)) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) return;
      try {
        fn(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        stop.store(true, std::memory_order_relaxed);
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace metal_marlin
