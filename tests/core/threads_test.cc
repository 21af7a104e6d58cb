#include "core/threads.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/machine.h"
#include "core/processors.h"

namespace metal_marlin {
namespace {

// Sets or unsets a variable of the environment for the life of the object.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    value != nullptr ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

int64_t sum_of_loop(int64_t n) {
  std::atomic<int64_t> sum = 0;
  parallel_for(n, [&](int64_t i) { sum += i; });
  return sum;
}

TEST(ThreadCount, AVariableThatIsNoNumberIsNamed) {
  for (const char* bad : {"abc", "", "0", "-1", "2x", "99999999999"}) {
    const Variable variable("METAL_MARLIN_THREADS", bad);
    EXPECT_THROW(ThreadCount(0), ArgumentError) << bad;
    EXPECT_THROW(ThreadCount(), ArgumentError) << bad;
    EXPECT_NO_THROW(ThreadCount(2)) << bad;
    EXPECT_GE(threads(), 1) << bad;
  }
}

TEST(ThreadCount, ZeroIsAllProcessorsWhateverWasUsedBefore) {
  const Variable ours("METAL_MARLIN_THREADS", nullptr);
  const Variable theirs("OMP_NUM_THREADS", nullptr);
  { const ThreadCount before(37); }
  const ThreadCount outer(41);
  const ThreadCount all(0);
  EXPECT_EQ(threads(), usable_processors());
}

TEST(ThreadCount, TheEnvironmentIsReadAtEachCall) {
  const Variable theirs("OMP_NUM_THREADS", "5,2");
  const Variable none("METAL_MARLIN_THREADS", nullptr);
  EXPECT_EQ(available_threads(), 5);
  const Variable ours("METAL_MARLIN_THREADS", "3");
  EXPECT_EQ(available_threads(), 3);
  EXPECT_EQ(threads(), 3);
}

TEST(ThreadCount, EndsWithItsScopeAndIsInheritedInside) {
  const ThreadCount outer(4);
  {
    const ThreadCount inner(2);
    EXPECT_EQ(threads(), 2);
    const ThreadCount same;
    EXPECT_EQ(threads(), 2);
    parallel_for(8, [](int64_t) { EXPECT_EQ(threads(), 2); });
  }
  EXPECT_EQ(threads(), 4);
  int other = 0;
  std::thread([&] {
    const ThreadCount mine(7);
    other = threads();
  }).join();
  EXPECT_EQ(other, 7);
  EXPECT_EQ(threads(), 4);
}

TEST(ThreadCount, RefusesWhatIsNoNumberOfThreads) {
  for (const int bad : {-1, -100, 4097}) EXPECT_THROW(ThreadCount{bad}, ArgumentError) << bad;
}

TEST(ParallelFor, EveryIndexOnce) {
  for (const int n : {1, 2, 5}) {
    const ThreadCount count(n);
    EXPECT_EQ(threads(), n);
    std::vector<int> seen(1000, 0);
    std::atomic<bool> in_range = true;
    parallel_for(1000, [&](int64_t i) {
      ++seen[static_cast<size_t>(i)];
      if (thread_index() < 0 || thread_index() >= n) in_range = false;
    });
    EXPECT_EQ(seen, std::vector<int>(1000, 1));
    EXPECT_TRUE(in_range);
    parallel_for(0, [&](int64_t) { FAIL(); });
    parallel_for(-1, [&](int64_t) { FAIL(); });
  }
}

TEST(ParallelFor, ExceptionsArriveAndTheNextLoopRuns) {
  for (const int n : {1, 4}) {
    const ThreadCount count(n);
    EXPECT_THROW(parallel_for(100,
                              [](int64_t i) {
                                if (i == 37) throw FormatError("tile");
                              }),
                 FormatError);
    EXPECT_EQ(sum_of_loop(10), 45);
    EXPECT_EQ(thread_index(), 0);
  }
}

TEST(ParallelFor, NestedLoopsRunOnTheThreadThatStartsThem) {
  const ThreadCount scope(3);
  std::atomic<int> count = 0;
  std::atomic<bool> same = true;
  parallel_for(4, [&](int64_t) {
    const auto outer = std::this_thread::get_id();
    const int index = thread_index();
    parallel_for(5, [&](int64_t) {
      ++count;
      if (std::this_thread::get_id() != outer || thread_index() != index) same = false;
    });
  });
  EXPECT_EQ(count, 20);
  EXPECT_TRUE(same);
}

// No two tiles of one loop that run at once have the same number, whatever other loops do meanwhile.
TEST(ParallelFor, ManyLoopsAtOnceFromThreadsOfTheirOwn) {
  std::atomic<bool> right = true;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      const int n = 1 + caller;
      const ThreadCount scope(n);
      for (int round = 0; round < 300; ++round) {
        std::vector<std::atomic<int>> users(static_cast<size_t>(n));
        std::atomic<int64_t> sum = 0;
        parallel_for(20, [&](int64_t i) {
          auto& user = users.at(static_cast<size_t>(thread_index()));
          if (user++ != 0) right = false;
          sum += i;
          user--;
        });
        if (sum != 190) right = false;
      }
    });
  }
  for (auto& t : callers) t.join();
  EXPECT_TRUE(right);
}

// Two calls have helpers of their own: the second call's two tiles wait for each other while the first call still runs.
TEST(ParallelFor, ACallDoesNotWaitForAnotherOnesTiles) {
  std::atomic<bool> end = false;
  std::atomic<int> begun = 0;
  std::thread first([&] {
    const ThreadCount scope(2);
    parallel_for(2, [&](int64_t) {
      ++begun;
      while (!end) std::this_thread::yield();
    });
  });
  while (begun < 2) std::this_thread::yield();
  const ThreadCount scope(2);
  std::atomic<int> here = 0;
  parallel_for(2, [&](int64_t) {
    ++here;
    while (here < 2) std::this_thread::yield();
  });
  end = true;
  first.join();
  EXPECT_EQ(here, 2);
}

TEST(ParallelFor, IdleThreadsSleep) {
  const ThreadCount scope(4);
  sum_of_loop(100);
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_seconds() - before, 0.1);  // three threads awake would use 0.9 where there are processors for them
}

// The thread sanitizer refuses threads in the child of a process that has some.
#if defined(__SANITIZE_THREAD__)
#define METAL_MARLIN_TSAN 1
#elif defined(__has_feature)
#define METAL_MARLIN_TSAN __has_feature(thread_sanitizer)
#else
#define METAL_MARLIN_TSAN 0
#endif
#if !METAL_MARLIN_TSAN
TEST(ParallelFor, RunsInTheChildOfAFork) {
  const ThreadCount scope(3);
  EXPECT_EQ(sum_of_loop(1000), 499500);
  for (int child = 0; child < 3; ++child) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      alarm(20);  // a child that hangs ends by a signal
      std::atomic<int> here = 0;
      parallel_for(2, [&](int64_t) {
        ++here;
        while (here < 2) std::this_thread::yield();  // needs a helper of its own
      });
      _exit(sum_of_loop(1000) == 499500 ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_EQ(sum_of_loop(1000), 499500);
}
#endif

}  // namespace
}  // namespace metal_marlin
