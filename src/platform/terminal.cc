#include "platform/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>

namespace metal_marlin {
namespace {

constexpr std::array kDeadly = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

// What put_back() needs; it may call nothing that a signal could have interrupted.
termios kept_modes{};
bool kept = false;
std::array<struct sigaction, kDeadly.size()> kept_actions{};

extern "C" void put_back(int signal_number) {
  static constexpr char kNoPasteMarks[] = "\x1b[?2004l";  // the editor asks the terminal to mark what is pasted
  if (kept) {
    tcsetattr(STDIN_FILENO, TCSANOW, &kept_modes);
    static_cast<void>(!write(STDIN_FILENO, kNoPasteMarks, sizeof(kNoPasteMarks) - 1));
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);  // takes effect when this function returns
}

}  // namespace

bool input_is_terminal() noexcept {
  return isatty(STDIN_FILENO) != 0;
}

bool output_is_terminal() noexcept {
  return isatty(STDOUT_FILENO) != 0;
}

bool errors_go_to_terminal() noexcept {
  return isatty(STDERR_FILENO) != 0;
}

int terminal_columns() noexcept {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

TerminalKeeper::TerminalKeeper() noexcept {
  kept = tcgetattr(STDIN_FILENO, &kept_modes) == 0;
  struct sigaction action {};
  action.sa_handler = put_back;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kDeadly.size(); ++i) {
    sigaction(kDeadly[i], nullptr, &kept_actions[i]);
    // What the parent had ignored, such as SIGHUP under nohup, stays ignored.
    if (kept_actions[i].sa_handler != SIG_IGN) sigaction(kDeadly[i], &action, nullptr);
  }
}

TerminalKeeper::~TerminalKeeper() {
  for (size_t i = 0; i < kDeadly.size(); ++i) sigaction(kDeadly[i], &kept_actions[i], nullptr);
}

}  // namespace metal_marlin
