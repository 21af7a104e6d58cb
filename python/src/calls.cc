#include "calls.h"

#include <nanobind/stl/string.h>

#include "options/spelling.h"

namespace metal_marlin::python {
namespace {

thread_local Callbacks* running = nullptr;

}  // namespace

Callbacks::Scope::Scope(Callbacks* calls) noexcept : outer_(std::exchange(running, calls)) {}

Callbacks::Scope::~Scope() {
  running = outer_;
}

bool Callbacks::interrupt_asked() noexcept {
  return running != nullptr && running->asked();
}

bool Callbacks::asked() noexcept {
  if (error_ || stop_) return true;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_asked_ < std::chrono::milliseconds(50)) return false;
  last_asked_ = now;
  try {
    guarded([&] {
      stop_ = !stopped_.is_none() && nb::cast<bool>(stopped_());
      return true;
    });
  } catch (...) {
    error_ = std::current_exception();
  }
  return error_ || stop_;
}

Callbacks::Callbacks(nb::handle on_progress, nb::handle on_note, nb::handle on_warning)
    : on_progress_(nb::borrow(on_progress)), on_note_(nb::borrow(on_note)), on_warning_(nb::borrow(on_warning)) {
  observer_.on_progress = [this](const Progress& p) {
    return guarded([&] {
      if (on_progress_.is_none()) return true;
      nb::dict d;
      d["stage"] = p.stage;
      d["done"] = p.done;
      d["total"] = p.total;
      d["seconds"] = p.seconds;
      d["seconds_left"] = p.seconds_left ? nb::object(nb::float_(*p.seconds_left)) : nb::object(nb::none());
      d["resident_bytes"] = p.resident_bytes;
      const nb::object answer = on_progress_(d);
      return answer.is_none() || nb::cast<bool>(nb::bool_(answer));
    });
  };
  if (!on_note_.is_none()) {
    observer_.on_note = [this](const std::string& text) {
      guarded([&] { return on_note_(python_spelling(text)), true; });
    };
  }
  if (!on_warning_.is_none()) {
    observer_.on_warning = [this](const std::string& text) {
      guarded([&] { return on_warning_(python_spelling(text)), true; });
    };
  }
}

}  // namespace metal_marlin::python
