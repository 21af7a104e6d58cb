#include <metal_marlin/error.h>

#include <string>

#include <nanobind/stl/string.h>

#include "calls.h"
#include "options/spelling.h"

namespace metal_marlin::python {
namespace {

PyObject* g_error = nullptr;
PyObject* g_format = nullptr;
PyObject* g_unsupported = nullptr;
PyObject* g_argument = nullptr;
PyObject* g_system = nullptr;
PyObject* g_numeric = nullptr;
PyObject* g_interrupted = nullptr;

// A class with `base` beside Error, so that callers may catch what they know.
PyObject* add(nb::module_& m, const char* name, PyObject* base, const char* doc) {
  const std::string full = std::string("metal_marlin.") + name;
  const nb::object bases = g_error == nullptr ? nb::object(nb::borrow(base))
                                              : nb::object(nb::make_tuple(nb::borrow(g_error), nb::borrow(base)));
  PyObject* type = PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr);
  if (type == nullptr) throw nb::python_error();
  m.attr(name) = nb::borrow(type);
  return type;
}

// With the attribute `option`: the name of the parameter that is at fault, or None.
void raise_argument(const ArgumentError& e) {
  const nb::object error = nb::borrow(g_argument)(python_spelling(e.what()));
  const std::string option = e.option();
  error.attr("option") =
      option.empty() ? nb::object(nb::none()) : nb::object(nb::str(python_parameter(option).c_str()));
  PyErr_SetObject(g_argument, error.ptr());
}

void translate(const std::exception_ptr& p, void*) {
  try {
    std::rethrow_exception(p);
  } catch (const ArgumentError& e) {
    raise_argument(e);
  } catch (const FormatError& e) {
    PyErr_SetString(g_format, python_spelling(e.what()).c_str());
  } catch (const UnsupportedError& e) {
    PyErr_SetString(g_unsupported, python_spelling(e.what()).c_str());
  } catch (const SystemError& e) {
    PyErr_SetString(g_system, python_spelling(e.what()).c_str());
  } catch (const NumericError& e) {
    PyErr_SetString(g_numeric, python_spelling(e.what()).c_str());
  } catch (const Interrupted& e) {
    PyErr_SetString(g_interrupted, python_spelling(e.what()).c_str());
  } catch (const Error& e) {
    PyErr_SetString(g_error, e.what());
  }
}

}  // namespace

void bind_errors(nb::module_& m) {
  g_error = add(m, "Error", PyExc_Exception, "Base of all errors of the library.");
  g_argument = add(m, "ArgumentError", PyExc_ValueError, "An argument is out of its range or contradicts another.");
  nb::borrow(g_argument).attr("option") = nb::none();  // of those that Python code raises
  g_format = add(m, "FormatError", PyExc_ValueError, "The bytes of a file break the rules of its format.");
  g_unsupported =
      add(m, "UnsupportedError", PyExc_ValueError, "The input is valid, but this version cannot handle it.");
  g_system = add(m, "MachineError", PyExc_OSError, "A file cannot be opened, read or written, or memory is short.");
  g_numeric = add(m, "NumericError", PyExc_ValueError, "NaN or Inf, or numbers that the stored type cannot hold.");
  g_interrupted =
      add(m, "Interrupted", PyExc_RuntimeError, "A callback asked to stop; work on a model can be resumed.");
  nb::register_exception_translator(translate, nullptr);
}

}  // namespace metal_marlin::python
