#include "console/signals.h"

#include <metal_marlin/interrupt.h>

#include <csignal>

namespace metal_marlin::cli {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

extern "C" void request_stop(int signal_number) {
  stop_requested = signal_number;
}

void install() noexcept {
  struct sigaction action {};
  action.sa_handler = request_stop;
  // Without SA_RESTART a read from the terminal returns, so that chat can leave its prompt.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

StopOnSignal::StopOnSignal() {
  rearm();
  set_interrupt_check(&StopOnSignal::requested);
}

StopOnSignal::~StopOnSignal() {
  set_interrupt_check(nullptr);
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool StopOnSignal::requested() noexcept {
  return stop_requested != 0;
}

bool StopOnSignal::termination_requested() noexcept {
  return stop_requested == SIGTERM;
}

void StopOnSignal::rearm() noexcept {
  stop_requested = 0;
  install();
}

}  // namespace metal_marlin::cli
