// Collects ActivationStats of a block's four taps while its input passes through.
#pragma once

#include <array>
#include <cstdint>

#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

class StatsCollector {
 public:
  explicit StatsCollector(bool gram = true) : gram_(gram) {}
  // x [rows, features], the tap's input; batches come in a fixed order. NumericError when a value is NaN or Inf.
  void add(Tap tap, const float* x, int64_t rows, int64_t features);
  TapHook hook() {
    return [this](Tap tap, const float* x, int64_t rows, int64_t features) { add(tap, x, rows, features); };
  }
  // Means over all rows so far; the collector is empty afterwards. Taps that saw nothing have in_features 0.
  std::array<ActivationStats, kTaps> finish();

 private:
  struct Sums {
    int64_t features = 0;
    uint64_t tokens = 0;
    std::vector<double> absolute;  // [K] sum |x|
    std::vector<double> square;    // [K] sum x^2
    std::vector<float> max;        // [K] max |x|
    Matrix gram;                   // [K, K] sum x x^T
  };
  bool gram_;
  std::array<Sums, kTaps> sums_;
};

}  // namespace metal_marlin
