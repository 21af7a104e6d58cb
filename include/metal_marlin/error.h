// Errors of the library. It never prints, aborts or exits: it throws one of these.
// what() says which file and tensor, what was expected, what was found, and what to do.
#pragma once

#include <metal_marlin/export.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace metal_marlin {

class METAL_MARLIN_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

// The bytes of a file break the rules of its format.
class METAL_MARLIN_API FormatError : public Error {
 public:
  using Error::Error;
};

// The input is valid, but this version cannot handle it; the message says what can be.
class METAL_MARLIN_API UnsupportedError : public Error {
 public:
  using Error::Error;
};

// An argument or option is out of its range or contradicts another. Messages name options as the command line does:
// "--group-size 7: ...".
class METAL_MARLIN_API ArgumentError : public Error {
 public:
  using Error::Error;
  // The option that the message begins with, "group-size"; empty where it begins otherwise.
  std::string option() const {
    const std::string_view text = what();
    if (text.substr(0, 2) != "--") return {};
    return std::string(text.substr(2, text.find_first_of(" :,") - 2));
  }
};

// The machine cannot do what is asked: a file cannot be opened, read or written, the disk is full, memory is short.
class METAL_MARLIN_API SystemError : public Error {
 public:
  using Error::Error;
};

// The arithmetic fails: NaN or Inf in weights or activations, a failed factorization, a broken fold.
class METAL_MARLIN_API NumericError : public Error {
 public:
  using Error::Error;
};

// The caller asked to stop (progress callback returned false). Work can be resumed.
class METAL_MARLIN_API Interrupted : public Error {
 public:
  using Error::Error;
};

}  // namespace metal_marlin
