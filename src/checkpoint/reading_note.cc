#include "checkpoint/reading_note.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

namespace metal_marlin {

void rethrow_with_note(const std::string& note) {
  try {
    throw;
  } catch (const Error& e) {
    const std::string text = e.what();
    if (note.empty() || text.ends_with(note)) throw;
    const std::string noted = fmt::format("{}; {}", text, note);
    if (dynamic_cast<const FormatError*>(&e) != nullptr) throw FormatError(noted);
    if (dynamic_cast<const UnsupportedError*>(&e) != nullptr) throw UnsupportedError(noted);
    if (dynamic_cast<const NumericError*>(&e) != nullptr) throw NumericError(noted);
    if (dynamic_cast<const SystemError*>(&e) != nullptr) throw SystemError(noted);
    throw;
  }
}

}  // namespace metal_marlin
