#include "core/threads.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <atomic>
#include <vector>

namespace metal_marlin {
namespace {

class Threads : public testing::Test {
 protected:
  ~Threads() override { set_threads(before_); }
  int before_ = threads();
};

TEST_F(Threads, AVariableThatIsNoNumberIsNamed) {
  for (const char* bad : {"abc", "", "0", "-1", "2x", "99999999999"}) {
    setenv("METAL_MARLIN_THREADS", bad, 1);
    EXPECT_THROW(use_threads(0), ArgumentError) << bad;
    EXPECT_NO_THROW(use_threads(2)) << bad;
  }
  setenv("METAL_MARLIN_THREADS", "3", 1);
  EXPECT_NO_THROW(use_threads(0));
  unsetenv("METAL_MARLIN_THREADS");
  EXPECT_NO_THROW(use_threads(0));
  EXPECT_EQ(threads(), 2);
}

TEST_F(Threads, EveryIndexOnce) {
  for (const int n : {1, 2, 5}) {
    set_threads(n);
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
  }
}

TEST_F(Threads, ExceptionsArriveAndTheNextLoopRuns) {
  for (const int n : {1, 4}) {
    set_threads(n);
    EXPECT_THROW(parallel_for(100,
                              [](int64_t i) {
                                if (i == 37) throw FormatError("tile");
                              }),
                 FormatError);
    std::atomic<int> count = 0;
    parallel_for(10, [&](int64_t) { ++count; });
    EXPECT_EQ(count, 10);
  }
}

TEST_F(Threads, NestedLoopsRun) {
  set_threads(3);
  std::atomic<int> count = 0;
  parallel_for(4, [&](int64_t) { parallel_for(5, [&](int64_t) { ++count; }); });
  EXPECT_EQ(count, 20);
}

TEST_F(Threads, RefusesNone) {
  EXPECT_THROW(set_threads(0), ArgumentError);
  EXPECT_THROW(set_threads(-1), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
