#include "platform/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

namespace metal_marlin {

bool input_is_terminal() noexcept {
  return isatty(STDIN_FILENO) != 0;
}

bool errors_go_to_terminal() noexcept {
  return isatty(STDERR_FILENO) != 0;
}

int terminal_columns() noexcept {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace metal_marlin
