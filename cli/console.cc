#include "console.h"

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>

#include "progress_line.h"
#include "signals.h"

namespace metal_marlin::cli {

struct Console::Log {
  ProgressLine line;
  spdlog::logger logger{"metal-marlin", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()};
  std::string stage;
  double stage_start = 0;
};

void add_output_options(Command& command, OutputOptions& options, bool has_json) {
  command.group("Output");
  if (has_json) command.flag("--json", options.json, "Print the result as JSON on stdout, everything else on stderr");
  command.flag("-q,--quiet", options.quiet, "Print no progress, notes or summary: only errors and the result itself");
  command.choice("--log-level", options.log_level, {"debug", "info", "warning", "error", "off"},
                 "Least important messages to show on stderr");
  command.help_flag();
}

Console::Console(const OutputOptions& options) : options_(options), log_(std::make_unique<Log>()) {
  log_->logger.set_pattern("%^%l%$: %v");
  log_->logger.set_level(options.quiet && options.log_level != "off" ? spdlog::level::err
                                                                     : spdlog::level::from_str(options.log_level));
}
Console::~Console() = default;

Observer Console::observer() {
  Observer observer;
  observer.on_progress = [this](const Progress& progress) {
    if (progress.stage != log_->stage) {
      if (!log_->stage.empty())
        debug(fmt::format("{} ended after {:.2f} s", log_->stage, progress.seconds - log_->stage_start));
      log_->stage = progress.stage;
      log_->stage_start = progress.seconds;
    }
    if (!options_.quiet && options_.log_level != "off") log_->line.show(progress);
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
  fmt::print("{}{}", text, text.empty() || text.back() != '\n' ? "\n" : "");
  std::fflush(stdout);
}

void Console::debug(const std::string& text) {
  if (log_->logger.should_log(spdlog::level::debug)) log_->line.clear();
  log_->logger.debug("{}", text);
}

void Console::info(const std::string& text) {
  log_->line.clear();
  log_->logger.info("{}", text);
}

void Console::warning(const std::string& text) {
  log_->line.clear();
  log_->logger.warn("{}", text);
}

void Console::error(const std::string& text) {
  log_->line.clear();
  log_->logger.error("{}", text);
}

}  // namespace metal_marlin::cli
