// The terminal of a command.
#pragma once

namespace metal_marlin {

// Whether a person types what comes in, or reads the output, or the error output.
bool input_is_terminal() noexcept;
bool output_is_terminal() noexcept;
bool errors_go_to_terminal() noexcept;
// Characters in a line of the terminal that shows the error output; 80 where it has no width.
int terminal_columns() noexcept;

// While one lives, a signal that ends the process (SIGINT, SIGTERM, SIGHUP, SIGQUIT) first gives the terminal of stdin
// the modes that it had. For code that switches echo and lines off. One at a time.
class TerminalKeeper {
 public:
  TerminalKeeper() noexcept;
  ~TerminalKeeper();
  TerminalKeeper(const TerminalKeeper&) = delete;
  TerminalKeeper& operator=(const TerminalKeeper&) = delete;
};

}  // namespace metal_marlin
