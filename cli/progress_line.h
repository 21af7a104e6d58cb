// Progress on stderr: one line that is rewritten on a terminal, plain lines every few seconds elsewhere.
#pragma once

#include <metal_marlin/progress.h>

#include <string>

namespace metal_marlin::cli {

// "search 12/30, 41 s left, 612 MiB".
std::string progress_text(const Progress& progress);
// "[########            ] search 12/30 ...", cut to `columns`.
std::string progress_bar(const Progress& progress, int columns);

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const Progress& progress);
  // Removes the bar, so that something else can be printed.
  void clear();

 private:
  bool terminal_;
  bool visible_ = false;
  double last_shown_ = 0;  // in Progress::seconds: what is done in a moment shows nothing
};

}  // namespace metal_marlin::cli
