#include "core/progress.h"

#include <metal_marlin/error.h>
#include <algorithm>

#include "core/machine.h"

namespace metal_marlin {

Tracker::Tracker(const Observer& observer)
    : observer_(observer),
      start_wall_(wall_seconds()),
      start_cpu_(cpu_seconds()),
      mark_wall_(start_wall_),
      mark_cpu_(start_cpu_) {}

void Tracker::settle() {
  const double wall = wall_seconds();
  const double cpu = cpu_seconds();
  if (!stage_.empty()) {
    stages_[stage_].seconds += wall - mark_wall_;
    stages_[stage_].cpu_seconds += cpu - mark_cpu_;
  }
  mark_wall_ = wall;
  mark_cpu_ = cpu;
}

void Tracker::enter(const std::string& stage, int64_t done, int64_t total) {
  settle();
  stage_ = stage;
  if (!observer_.on_progress) return;
  Progress p;
  p.stage = stage;
  p.done = done;
  p.total = total;
  p.seconds = seconds();
  const double done_since = fraction_ - first_fraction_;
  if (done_since > 0.01) p.seconds_left = (mark_wall_ - first_wall_) * (1 - fraction_) / done_since;
  p.resident_bytes = resident_bytes();
  if (!observer_.on_progress(p)) throw Interrupted("interrupted");
}

void Tracker::set_fraction(double fraction) {
  if (fraction_ < 0) {
    first_fraction_ = fraction;
    first_wall_ = wall_seconds();
  }
  fraction_ = fraction;
}

void Tracker::note(const std::string& text) const {
  if (observer_.on_note) observer_.on_note(text);
}

void Tracker::warn(const std::string& text) {
  if (std::find(warnings_.begin(), warnings_.end(), text) != warnings_.end()) return;  // two readers of one file
  warnings_.push_back(text);
  if (observer_.on_warning) observer_.on_warning(text);
}

void Tracker::warn_of(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) warn(text);
}

double Tracker::seconds() const {
  return wall_seconds() - start_wall_;
}

double Tracker::cpu() const {
  return cpu_seconds() - start_cpu_;
}

const std::map<std::string, StageTime>& Tracker::stages() {
  settle();
  return stages_;
}

}  // namespace metal_marlin
