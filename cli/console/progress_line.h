// Progress on stderr: one line that is rewritten on a terminal, plain lines every few seconds elsewhere.
#pragma once

#include <metal_marlin/progress.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin::cli {

// A part of long work that a user knows by name. Its stages, as Progress names them, alternate quickly; done and total
// of each count the same units.
struct Phase {
  std::string_view name;  // "quantizing"
  std::string_view unit;  // "block"; empty: a bare number
  double share = 0;       // of all work, roughly: for the bar
  std::vector<std::string_view> stages;
};

// "[2/4 quantizing] block 9/30, 41 s left, 612 MiB"; of a stage that belongs to no phase "search 9/30, 41 s left, ...".
std::string progress_text(const Progress& progress, std::span<const Phase> phases);
// "[########            ] " and progress_text(), cut to `columns`. The bar is that of the whole work.
std::string progress_bar(const Progress& progress, std::span<const Phase> phases, int columns);

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const Progress& progress, std::span<const Phase> phases);
  // Removes the bar, so that something else can be printed.
  void clear();

 private:
  bool terminal_;
  bool visible_ = false;
  double last_shown_ = 0;  // in Progress::seconds: what is done in a moment shows nothing
};

}  // namespace metal_marlin::cli
