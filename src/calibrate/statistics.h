// Collects ActivationStats of the four inputs of a block while the states pass through it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

class StatsCollector {
 public:
  // kBF16: the products of the Gram matrix from values rounded to bf16, where the machine has them.
  // lengths: rows of the sequences, in the order in which add() will see them, for every input; with them first_rows is
  // kept. last: of how many of the last of these sequences there are statistics of their own too (finish_last).
  explicit StatsCollector(bool gram = true, ComputeType precision = ComputeType::kF32,
                          std::vector<int64_t> lengths = {}, int64_t last = 0);
  // x [rows, features], the values of the input; batches come in a fixed order. NumericError when a value is NaN or
  // Inf.
  void add(LinearInput input, const float* x, int64_t rows, int64_t features);
  InputHook hook() {
    return [this](LinearInput input, const float* x, int64_t rows, int64_t features) { add(input, x, rows, features); };
  }
  // Means over all rows so far; the collector is empty afterwards. Inputs that saw nothing have in_features 0.
  // NumericError where the sum of a channel's squares is NaN or Inf; `name` says whose inputs they are ("tap qkv").
  std::array<ActivationStats, kLinearInputs> finish(const std::function<std::string(LinearInput)>& name = {});
  // After finish(): those of the last sequences alone: tokens, Gram matrix and first rows, no mean, max and rms.
  std::array<ActivationStats, kLinearInputs> finish_last() { return std::move(last_); }

 private:
  struct Sums {
    int64_t features = 0;
    uint64_t tokens = 0;
    std::vector<double> absolute;  // [K] sum |x|
    std::vector<double> square;    // [K] sum x^2
    std::vector<float> max;        // [K] max |x|
    Matrix gram;       // [K, K] sum x x^T of all rows, but for those of the last sequences where these are kept apart
    Matrix last_gram;  // [K, K] sum x x^T of the latter
    std::vector<float> first;  // rows that began a sequence
    size_t sequence = 0;       // the one that the next row belongs to, and the row's place in it
    int64_t place = 0;
  };
  void add_gram(Sums& s, const float* x, int64_t rows);
  void keep_first_rows(Sums& s, const float* x, int64_t rows);
  void finish_gram(Sums& s, ActivationStats& all, ActivationStats& last) const;

  bool gram_;
  ComputeType precision_;
  std::vector<int64_t> lengths_;
  int64_t last_sequences_;
  int64_t last_row_;  // the first row of the last sequences; beyond all rows where there are none
  std::array<Sums, kLinearInputs> sums_;
  std::array<ActivationStats, kLinearInputs> last_;
};

// From then on the first row of each sequence counts `weight` times in the Gram matrix (not in mean, max and rms): all
// later positions attend to it. Without first_rows nothing changes. ArgumentError for a weight below 1 or not finite.
void weigh_first_rows(ActivationStats& stats, double weight);

}  // namespace metal_marlin
