#include "core/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

namespace metal_marlin {
namespace {

// Long enough to bridge the gap between two loops, too short to matter beside a busy process.
constexpr auto kSpin = std::chrono::microseconds(20);
constexpr size_t kStackBytes = size_t{8} << 20;

void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `value` is no longer `old`: waits awake at first, then asleep.
void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) noexcept {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  value.wait(old, std::memory_order_acquire);
}

struct Job {
  const std::function<void(int)>* work;
  int helpers;
  int joined = 0;                   // guarded by the pool's mutex
  std::atomic<uint32_t> inside{0};  // helpers that have joined and not ended; raised under the pool's mutex
};

// Never destroyed: its threads may outlive all static objects.
class Pool {
 public:
  explicit Pool(Pool* older) : older_(older) {}

  void run(int helpers, const std::function<void(int)>& work) {
    const auto job = std::make_shared<Job>();
    job->work = &work;
    job->helpers = helpers;
    open(job);
    work(0);
    close(job);
    // A helper sees the job through its own pointer to the end; the caller's `work` it no longer touches.
    for (uint32_t n = job->inside.load(std::memory_order_acquire); n != 0;
         n = job->inside.load(std::memory_order_acquire)) {
      wait_for_change(job->inside, n);
    }
  }

 private:
  void open(const std::shared_ptr<Job>& job) {
    bool all = false;
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(job);
      wanted_ += job->helpers;
      while (started_ < wanted_ && start_thread()) ++started_;
      all = job->helpers >= started_;
    }
    epoch_.fetch_add(1, std::memory_order_release);
    if (all) {
      epoch_.notify_all();
    } else {
      for (int i = 0; i < job->helpers; ++i) epoch_.notify_one();
    }
  }

  void close(const std::shared_ptr<Job>& job) {
    const std::lock_guard lock(mutex_);
    std::erase(jobs_, job);
    wanted_ -= job->helpers;
  }

  // Every open job can have all of its helpers, since there are as many threads as all of them want.
  std::shared_ptr<Job> join(int& index) {
    const std::lock_guard lock(mutex_);
    for (const auto& job : jobs_) {
      if (job->joined == job->helpers) continue;
      index = ++job->joined;
      job->inside.fetch_add(1, std::memory_order_relaxed);
      return job;
    }
    return nullptr;
  }

  void serve() {
    while (true) {
      const uint32_t epoch = epoch_.load(std::memory_order_acquire);  // before the search, so that no job is missed
      int index = 0;
      if (const std::shared_ptr<Job> job = join(index)) {
        (*job->work)(index);
        if (job->inside.fetch_sub(1, std::memory_order_acq_rel) == 1) job->inside.notify_all();
      } else {
        wait_for_change(epoch_, epoch);
      }
    }
  }

  bool start_thread() {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    size_t stack = 0;
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < kStackBytes) {
      pthread_attr_setstacksize(&attributes, kStackBytes);  // macOS: 512 KiB
    }
    // Signals are for the threads of the process that uses this library.
    sigset_t every;
    sigset_t before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_t id;
    const int status = pthread_create(
        &id, &attributes,
        [](void* pool) -> void* {
          static_cast<Pool*>(pool)->serve();
          return nullptr;
        },
        this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    return status == 0;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<Job>> jobs_;  // open: helpers may join
  int wanted_ = 0;                          // helpers of all open jobs
  int started_ = 0;                         // threads
  std::atomic<uint32_t> epoch_{0};          // changes with every job that is opened
  Pool* older_;                             // of the process that forked this one; kept for leak checkers
};

std::atomic<Pool*> current{nullptr};
std::atomic<Pool*> forked{nullptr};

// The child of a fork has none of the threads, and maybe a locked mutex: it starts afresh.
void forget_pool() noexcept {
  if (Pool* pool = current.exchange(nullptr)) forked.store(pool);
}

Pool& pool() {
  if (Pool* p = current.load(std::memory_order_acquire)) return *p;
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, forget_pool); });
  auto made = std::make_unique<Pool>(forked.load());
  Pool* other = nullptr;
  if (current.compare_exchange_strong(other, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *other;
}

}  // namespace

void run_on_pool(int helpers, const std::function<void(int)>& work) {
  pool().run(helpers, work);
}

}  // namespace metal_marlin
