// Running the library from Python: without the GIL, with progress, and so that Ctrl-C and callbacks can stop it.
#pragma once

#include <metal_marlin/error.h>
#include <metal_marlin/progress.h>
#include <nanobind/nanobind.h>

#include <chrono>
#include <exception>
#include <optional>
#include <utility>

namespace metal_marlin::python {

namespace nb = nanobind;

// An Observer over Python callables (or None). What they raise, KeyboardInterrupt included, stops the work and is
// raised again when it has stopped. on_progress(dict) may return False to stop.
class Callbacks {
 public:
  explicit Callbacks(nb::handle on_progress = nb::none(), nb::handle on_note = nb::none(),
                     nb::handle on_warning = nb::none());
  Callbacks(const Callbacks&) = delete;
  Callbacks& operator=(const Callbacks&) = delete;

  const Observer& observer() const noexcept { return observer_; }
  // For callbacks of other kinds: calls `fn` with the GIL; false when the work is to stop.
  template <typename Fn>
  bool guarded(const Fn& fn) {
    nb::gil_scoped_acquire gil;
    if (error_) return false;
    try {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      return fn();
    } catch (nb::python_error&) {
      error_ = std::current_exception();
      return false;
    }
  }
  // `stopped` (a callable, or None) is asked too while run() works: True ends the work.
  void stop_when(nb::handle stopped) { stopped_ = nb::borrow(stopped); }
  // Whether a signal that Python has seen, or `stopped`, ends the work. Asks Python at most 20 times a second.
  bool asked() noexcept;
  // Runs `fn` without the GIL. What `fn` does asks asked() now and then, if it asks in the calling thread.
  template <typename Fn>
  auto run(const Fn& fn) {
    const Scope scope(this);
    try {
      nb::gil_scoped_release release;
      return fn();
    } catch (const Interrupted&) {
      if (error_) std::rethrow_exception(error_);
      throw;
    }
  }
  // For work that ends normally when a callback says so.
  void raise_pending() const {
    if (error_) std::rethrow_exception(error_);
  }

  // What set_interrupt_check() is given: asks the innermost run() of the calling thread.
  static bool interrupt_asked() noexcept;

 private:
  class Scope {
   public:
    explicit Scope(Callbacks* calls) noexcept;
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Callbacks* outer_;
  };

  nb::object on_progress_;
  nb::object on_note_;
  nb::object on_warning_;
  nb::object stopped_ = nb::none();
  Observer observer_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::chrono::steady_clock::time_point last_asked_{};
};

void bind_errors(nb::module_& m);
void bind_awq(nb::module_& m);
void bind_gptq(nb::module_& m);
void bind_matrix(nb::module_& m);
void bind_mr_gptq(nb::module_& m);
void bind_mixed_precision(nb::module_& m);
void bind_models(nb::module_& m);

}  // namespace metal_marlin::python
