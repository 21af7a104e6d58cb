// What a subcommand prints: results to stdout, everything else to stderr.
#pragma once

#include <metal_marlin/progress.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "command.h"
#include "console/progress_line.h"

namespace metal_marlin::cli {

struct OutputOptions {
  bool json = false;
  bool quiet = false;
  std::string log_level = "info";
};

// Adds --json, --quiet, --log-level and --help.
void add_output_options(Command& command, OutputOptions& options);

// To stdout, with a newline at its end, through to the system: SystemError when it is not taken (a full disk).
void print_result(const std::string& text);
// To stderr as it is. Never throws: a message that cannot be shown must not stop the work.
void print_error(const std::string& text) noexcept;

// At --log-level debug it says at its end what time and memory the command took.
class Console {
 public:
  explicit Console(const OutputOptions& options);
  ~Console();

  bool json() const { return options_.json; }
  bool quiet() const { return options_.quiet; }

  // Shows progress, notes and warnings, and stops the work when StopOnSignal asks for it. `phases`: how the stages of
  // the work follow each other (progress_line.h); empty: they are shown by their own names.
  Observer observer(std::span<const Phase> phases = {});

  // For text that comes in pieces, as TextGenerator delivers it: shows each at once, nothing with --json, and ends on a
  // signal. A terminal gets what could steer it escaped; a file or a pipe gets the text. Live until the Console goes.
  std::function<bool(const std::string&)> streaming();

  // Says that a signal has stopped the work, and what is next: no error, and not with --log-level off.
  void stopped(const std::string& next);

  // A summary for people: not with --json or --quiet.
  void summary(const std::string& text);
  // The result itself: always. With --json it is JSON, in which characters that could steer a terminal are escaped.
  void result(const std::string& text);

  void debug(const std::string& text);
  void info(const std::string& text);
  void warning(const std::string& text);
  // A warning() that says each text once, however often it comes. For the life of this object.
  std::function<void(const std::string&)> warning_once();
  void error(const std::string& text);

 private:
  struct Log;
  OutputOptions options_;
  std::unique_ptr<Log> log_;
};

}  // namespace metal_marlin::cli
