// What a subcommand prints: results to stdout, everything else to stderr.
#pragma once

#include <metal_marlin/progress.h>

#include <memory>
#include <string>

#include "command.h"

namespace metal_marlin::cli {

struct OutputOptions {
  bool json = false;
  bool quiet = false;
  std::string log_level = "info";
};

// Adds --json (unless the command has no such output), --quiet, --log-level and --help.
void add_output_options(Command& command, OutputOptions& options, bool has_json = true);

class Console {
 public:
  explicit Console(const OutputOptions& options);
  ~Console();

  bool json() const { return options_.json; }
  bool quiet() const { return options_.quiet; }

  // Shows progress, notes and warnings, and stops the work when StopOnSignal asks for it.
  Observer observer();

  // A summary for people: not with --json or --quiet.
  void summary(const std::string& text);
  // The result itself: always.
  void result(const std::string& text);

  void debug(const std::string& text);
  void info(const std::string& text);
  void warning(const std::string& text);
  void error(const std::string& text);

 private:
  struct Log;
  OutputOptions options_;
  std::unique_ptr<Log> log_;
};

}  // namespace metal_marlin::cli
