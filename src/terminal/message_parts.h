// A message that a person types in one line or in several.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// A line that ends with a backslash goes on in the next one. A text that begins with """ goes on until a line ends with
// """. The marks are no part of the message.
class MessageParts {
 public:
  // Takes the next line, which may hold line feeds where it was pasted. True: the message is whole.
  bool add(std::string_view line);
  bool begun() const noexcept { return begun_; }
  // Gives the message away and begins a new one.
  std::string take();

 private:
  std::string text_;
  bool begun_ = false;
  bool quoted_ = false;
};

}  // namespace metal_marlin
