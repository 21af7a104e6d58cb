// SIGINT and SIGTERM ask for an orderly stop while a StopOnSignal lives; the second one ends the process at once.
#pragma once

namespace metal_marlin::cli {

class StopOnSignal {
 public:
  StopOnSignal();
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  static bool requested() noexcept;
  // Whether the signal that asked is SIGTERM: the whole command is to end, not only what it does now.
  static bool termination_requested() noexcept;
  // Forgets the request, and the next signal asks again.
  static void rearm() noexcept;
};

}  // namespace metal_marlin::cli
