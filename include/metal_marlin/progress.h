// How long-running work reports its progress. Callbacks come on the thread that called the function.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace metal_marlin {

struct Progress {
  std::string stage;                   // "calibrate", "forward", "search", "round", "write", "evaluate", ...
  int64_t done = 0;                    // units finished (blocks, chunks, steps)
  int64_t total = 0;                   // units in all; 0: not known
  double seconds = 0;                  // wall seconds since the start
  std::optional<double> seconds_left;  // estimate; empty: not known yet
  uint64_t resident_bytes = 0;         // resident memory of the process now
};

struct Observer {
  // Called at least once per block and about every second. Return false to stop the work in order; it then throws
  // Interrupted.
  std::function<bool(const Progress&)> on_progress;
  // One line without a newline: a note, or a warning that is also listed in the report.
  std::function<void(const std::string&)> on_note;
  std::function<void(const std::string&)> on_warning;
};

}  // namespace metal_marlin
