// Running the library from Python: without the GIL, with progress, and so that Ctrl-C and callbacks can stop it.
#pragma once

#include <metal_marlin/error.h>
#include <metal_marlin/progress.h>
#include <nanobind/nanobind.h>

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
  // Runs `fn` without the GIL.
  template <typename Fn>
  auto run(const Fn& fn) {
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

 private:
  nb::object on_progress_;
  nb::object on_note_;
  nb::object on_warning_;
  Observer observer_;
  std::exception_ptr error_;
};

void bind_errors(nb::module_& m);
void bind_awq(nb::module_& m);
void bind_gptq(nb::module_& m);
void bind_matrix(nb::module_& m);
void bind_mr_gptq(nb::module_& m);
void bind_mixed_precision(nb::module_& m);
void bind_models(nb::module_& m);

}  // namespace metal_marlin::python
