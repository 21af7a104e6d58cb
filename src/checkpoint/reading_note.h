// Why these files of a folder were read where others could be meant: said at the end of every error about them.
#pragma once

#include <string>

namespace metal_marlin {

// The error that is being handled, with `note` at its end unless it is there already. Empty: as it is.
[[noreturn]] void rethrow_with_note(const std::string& note);

// What `read` returns. Its errors end with `note`.
template <typename Read>
auto with_note(const std::string& note, const Read& read) -> decltype(read()) {
  try {
    return read();
  } catch (...) {
    rethrow_with_note(note);
  }
}

}  // namespace metal_marlin
