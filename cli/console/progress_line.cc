#include "console/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "arguments/values.h"
#include "console/console.h"
#include "platform/terminal.h"

namespace metal_marlin::cli {
namespace {

constexpr double kTerminalInterval = 0.1;  // seconds: looks smooth and costs nothing
constexpr double kPlainInterval = 5;       // seconds: readable in a log
constexpr int kBarWidth = 24;

// Which phase a stage belongs to; phases.size(): none.
size_t phase_of(const std::string& stage, std::span<const Phase> phases) {
  size_t i = 0;
  while (i < phases.size() &&
         std::find(phases[i].stages.begin(), phases[i].stages.end(), stage) == phases[i].stages.end())
    ++i;
  return i;
}

double share_done(const Progress& progress) {
  if (progress.total <= 0) return 0;
  return std::clamp(static_cast<double>(progress.done) / static_cast<double>(progress.total), 0.0, 1.0);
}

}  // namespace

std::string progress_text(const Progress& progress, std::span<const Phase> phases) {
  const size_t phase = phase_of(progress.stage, phases);
  std::string text = progress.stage;
  std::string unit = " ";
  if (phase < phases.size()) {
    text = fmt::format("[{}/{} {}]", phase + 1, phases.size(), phases[phase].name);
    if (!phases[phase].unit.empty()) unit = fmt::format(" {} ", phases[phase].unit);
  }
  if (progress.total > 1) {
    // The one at hand counts from 1, as people do.
    const bool at_hand = phase < phases.size() && progress.done < progress.total;
    text += fmt::format("{}{}/{}", unit, progress.done + (at_hand ? 1 : 0), progress.total);
  } else if (progress.done > 0 && progress.total == 0) {
    text += fmt::format("{}{}", unit, progress.done);
  }
  if (progress.seconds_left) {
    text += fmt::format(", {} left", format_seconds(*progress.seconds_left));
  } else {
    text += fmt::format(", {} so far", format_seconds(progress.seconds));
  }
  if (progress.resident_bytes > 0) text += ", " + format_bytes(progress.resident_bytes);
  return text;
}

std::string progress_bar(const Progress& progress, std::span<const Phase> phases, int columns) {
  double share = share_done(progress);
  if (const size_t phase = phase_of(progress.stage, phases); phase < phases.size()) {
    share *= phases[phase].share;
    for (size_t i = 0; i < phase; ++i) share += phases[i].share;
  }
  const auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * kBarWidth);
  std::string line =
      "[" + std::string(filled, '#') + std::string(kBarWidth - filled, ' ') + "] " + progress_text(progress, phases);
  // The last column stays free: a full line makes some terminals scroll.
  const auto room = static_cast<size_t>(std::max(columns - 1, 1));
  if (line.size() > room) line.resize(room);
  return line;
}

ProgressLine::ProgressLine() : terminal_(errors_go_to_terminal()) {}

void ProgressLine::show(const Progress& progress, std::span<const Phase> phases) {
  // A new run starts its clock again.
  if (progress.seconds < last_shown_) last_shown_ = 0;
  if (progress.seconds - last_shown_ < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_shown_ = progress.seconds;
  if (terminal_) {
    print_error("\r\033[K" + progress_bar(progress, phases, terminal_columns()));
    visible_ = true;
  } else {
    print_error(progress_text(progress, phases) + "\n");
  }
}

void ProgressLine::clear() {
  if (!visible_) return;
  print_error("\r\033[K");
  visible_ = false;
}

}  // namespace metal_marlin::cli
