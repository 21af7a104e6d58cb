// The border of the public interface: only Error and its subclasses pass it.
#pragma once

namespace metal_marlin {

// Call it in the handler `catch (...)` around the whole body of a public function. It throws the exception at hand
// again when that is an Error, and otherwise an Error that says the same:
//   std::bad_alloc, std::length_error    SystemError, with advice
//   std::filesystem::filesystem_error,
//   std::system_error, ios failure       SystemError, with the path and the system's reason
//   an exception of the JSON library     FormatError: JSON that was given or read has another shape than expected
//   any other std::exception             Error that asks for a bug report
// What is no std::exception comes from a caller's callback, and passes as it is.
// `function`: the public name, "render_plan".
[[noreturn]] void rethrow_as_error(const char* function);

}  // namespace metal_marlin
