// Progress, time per stage and warnings of one operation.
#pragma once

#include <metal_marlin/progress.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace metal_marlin {

struct StageTime {
  double seconds = 0;
  double cpu_seconds = 0;
};

// Not thread-safe; used from the calling thread.
class Tracker {
 public:
  explicit Tracker(const Observer& observer);

  // Time from now on belongs to `stage`. Also tells the observer; throws Interrupted when it answers no.
  void enter(const std::string& stage, int64_t done, int64_t total);
  // The same stage, further on.
  void update(int64_t done, int64_t total) { enter(stage_, done, total); }
  // Share of all work that is done, 0..1, for the estimate of the time left; negative: not known.
  // What came before the first call (self-made text, say) does not enter the estimate.
  void set_fraction(double fraction);
  void note(const std::string& text) const;
  void warn(const std::string& text);
  void warn_of(const std::vector<std::string>& texts);  // what opening a model found, say

  double seconds() const;
  double cpu() const;
  const std::map<std::string, StageTime>& stages();  // up to now
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

 private:
  void settle();

  const Observer& observer_;
  double start_wall_;
  double start_cpu_;
  double mark_wall_;
  double mark_cpu_;
  double fraction_ = -1;
  double first_fraction_ = 0;  // of the first call, and when that was
  double first_wall_ = 0;
  std::string stage_;
  std::map<std::string, StageTime> stages_;
  std::vector<std::string> warnings_;
};

}  // namespace metal_marlin
