#include "core/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <thread>

namespace metal_marlin {
namespace {

// Half of the measured part took as long as what is left; what came before it does not count.
TEST(Tracker, EstimatesFromThePartThatTheFractionSpeaksOf) {
  std::optional<double> left;
  Observer observer;
  observer.on_progress = [&](const Progress& p) {
    left = p.seconds_left;
    return true;
  };
  Tracker tracker(observer);
  tracker.enter("self text", 0, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const auto begin = std::chrono::steady_clock::now();
  tracker.set_fraction(0);
  tracker.enter("forward", 0, 2);
  EXPECT_FALSE(left);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  tracker.set_fraction(0.5);
  tracker.enter("forward", 1, 2);
  EXPECT_GE(left.value(), 0.05);
  EXPECT_LE(left.value(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace
}  // namespace metal_marlin
