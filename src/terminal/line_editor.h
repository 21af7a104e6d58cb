// Lines of a person at the terminal: arrow keys, the keys of Emacs (Ctrl-A, -E, -W, -K, ...), earlier lines on the
// arrows and on Ctrl-R, pasted text with its line ends, Unicode.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace metal_marlin {

class LineEditor {
 public:
  enum class Event {
    kLine,
    kEnd,          // Ctrl-D on an empty line, or the terminal is gone
    kInterrupted,  // Ctrl-C on an empty line
    kDropped,      // Ctrl-C, which dropped what the line held
  };

  // Keeps the last `most` lines. Needs input_is_terminal() (platform/terminal.h). SystemError where the terminal cannot
  // be used.
  explicit LineEditor(size_t most);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Shows `prompt`, and waits for a line, which comes without its line feed. A signal that ends the process puts the
  // terminal back as it was.
  Event read(const std::string& prompt, std::string& line);
  // Puts a text among the earlier lines, unless the last of them is the same.
  void remember(const std::string& text);

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

}  // namespace metal_marlin
