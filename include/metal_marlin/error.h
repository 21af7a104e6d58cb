// Errors of the library. It never prints, aborts or exits: it throws one of these.
// what() says which file and tensor, what was expected, what was found, and what to do.
#pragma once

#include <metal_marlin/export.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

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
  // About several arguments, or about none of them alone.
  using Error::Error;
  // `option`: the option that is at fault, as the command line names it without hyphens; or another argument by its
  // name.
  ArgumentError(std::string option, const std::string& message)
      : Error(message), option_(std::make_shared<const std::string>(std::move(option))) {}
  // "group-size"; empty where the error is not about one option.
  std::string option() const { return option_ == nullptr ? std::string() : *option_; }

 private:
  std::shared_ptr<const std::string> option_;  // shared: copies of an exception must not throw
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
