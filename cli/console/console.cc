#include "console/console.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <system_error>

#include "arguments/values.h"
#include "console/signals.h"
#include "formats/terminal_json.h"
#include "formats/terminal_text.h"
#include "formats/text.h"
#include "platform/machine.h"
#include "platform/terminal.h"

namespace metal_marlin::cli {

// NO_COLOR, as no-color.org has it.
static bool wants_colors() {
  const char* no = std::getenv("NO_COLOR");
  return no == nullptr || no[0] == '\0';
}

struct Console::Log {
  ProgressLine line;
  spdlog::logger logger{"metal-marlin",
                        std::make_shared<spdlog::sinks::stderr_color_sink_mt>(
                            wants_colors() ? spdlog::color_mode::automatic : spdlog::color_mode::never)};
  std::string stage;
  double stage_start = 0;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

namespace {

// Writes and flushes, so that a write error is found here. At exit it would be lost.
void write_out(const std::string& text) {
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (std::fflush(stdout) == 0 && written && std::ferror(stdout) == 0) return;
  throw SystemError(
      fmt::format("standard output: cannot be written: {}", std::generic_category().message(errno != 0 ? errno : EIO)));
}

}  // namespace

void print_result(const std::string& text) {
  write_out(text.empty() || text.back() != '\n' ? text + "\n" : text);
}

void print_error(const std::string& text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void add_output_options(Command& command, OutputOptions& options) {
  command.group("Output");
  command.flag("--json", options.json, "Print the result as JSON on stdout, everything else on stderr");
  command.flag(
      "-q,--quiet", options.quiet,
      "Print no progress, notes or summary: only errors and the result itself, which is OUT's path where the result "
      "is written there");
  command.choice("--log-level", options.log_level, {"debug", "info", "warning", "error", "off"},
                 "Least important messages to show on stderr");
  command.help_flag();
}

Console::Console(const OutputOptions& options) : options_(options), log_(std::make_unique<Log>()) {
  log_->logger.set_pattern("%^%l%$: %v");
  log_->logger.set_level(options.quiet && options.log_level != "off" ? spdlog::level::err
                                                                     : spdlog::level::from_str(options.log_level));
}
Console::~Console() {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - log_->start;
  debug(fmt::format("{:.2f} s, peak memory {}", passed.count(), format_bytes(peak_resident_bytes())));
}

std::function<bool(const std::string&)> Console::streaming() {
  return [this, escapes = output_is_terminal()](const std::string& piece) {
    if (!options_.json) write_out(escapes ? text_for_terminal(piece) : piece);
    return !StopOnSignal::requested();
  };
}

Observer Console::observer(std::span<const Phase> phases) {
  Observer observer;
  observer.on_progress = [this, phases](const Progress& progress) {
    if (progress.stage != log_->stage) {
      if (!log_->stage.empty())
        debug(fmt::format("{} ended after {:.2f} s", log_->stage, progress.seconds - log_->stage_start));
      log_->stage = progress.stage;
      log_->stage_start = progress.seconds;
    }
    if (!options_.quiet && options_.log_level != "off") log_->line.show(progress, phases);
    return !StopOnSignal::requested();
  };
  observer.on_note = [this](const std::string& text) { info(text); };
  observer.on_warning = [this](const std::string& text) { warning(text); };
  return observer;
}

void Console::summary(const std::string& text) {
  if (!options_.json && !options_.quiet) result(text);
}

void Console::result(const std::string& text) {
  log_->line.clear();
  print_result(options_.json ? json_for_terminal(text) : text);
}

void Console::stopped(const std::string& next) {
  log_->line.clear();
  if (options_.log_level != "off") print_error("stopped; " + next + "\n");
}

void Console::debug(const std::string& text) {
  if (log_->logger.should_log(spdlog::level::debug)) log_->line.clear();
  log_->logger.debug("{}", escaped_line(text));
}

void Console::info(const std::string& text) {
  log_->line.clear();
  log_->logger.info("{}", escaped_line(text));
}

std::function<void(const std::string&)> Console::warning_once() {
  return [this, said = std::set<std::string>()](const std::string& text) mutable {
    if (said.insert(text).second) warning(text);
  };
}

void Console::warning(const std::string& text) {
  log_->line.clear();
  log_->logger.warn("{}", escaped_line(text));
}

void Console::error(const std::string& text) {
  log_->line.clear();
  log_->logger.error("{}", escaped_line(text));
}

}  // namespace metal_marlin::cli
