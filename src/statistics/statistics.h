// Collects the ActivationStats of a block's four linear inputs while the states pass through the block.
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
  // gram: whether Gram matrices are made. precision: kBF16 makes them from values rounded to bf16, where the machine
  // has such products. lengths: rows of each sequence, in the order in which add() will see them for every input; when
  // they are given, first_rows is kept. last: the number of sequences at the end that form the validation split and get
  // statistics of their own (finish_last).
  explicit StatsCollector(bool gram = true, MatmulPrecision precision = MatmulPrecision::kF32,
                          std::vector<int64_t> lengths = {}, int64_t last = 0);
  // Adds the values x [rows, features] of an input. Call it with batches in a fixed order, because the sums depend on
  // it. Throws NumericError when a value is NaN or Inf.
  void add(LinearInput input, const float* x, int64_t rows, int64_t features);
  InputHook hook() {
    return [this](LinearInput input, const float* x, int64_t rows, int64_t features) { add(input, x, rows, features); };
  }
  // Returns the means over all rows so far, and empties the collector. Inputs that saw nothing have in_features 0.
  // Throws NumericError where the sum of a channel's squares is NaN or Inf; `name` gives an input's name for the
  // message ("tap qkv").
  std::array<ActivationStats, kLinearInputs> finish(const std::function<std::string(LinearInput)>& name = {});
  // Call it after finish(). Returns the statistics of the last sequences alone: tokens, Gram matrix and first rows, but
  // no mean, max and rms.
  std::array<ActivationStats, kLinearInputs> finish_last() { return std::move(last_); }

 private:
  struct Sums {
    int64_t features = 0;
    uint64_t tokens = 0;
    std::vector<double> absolute;  // [K] sum |x|
    std::vector<double> square;    // [K] sum x^2
    std::vector<float> max;        // [K] max |x|
    Matrix gram;               // [K, K] sum x x^T of all rows; without the last sequences where these are kept apart
    Matrix last_gram;          // [K, K] sum x x^T of the last sequences
    std::vector<float> first;  // rows that begin a sequence
    size_t sequence = 0;       // the sequence of the next row, and the row's place in it
    int64_t place = 0;
  };
  void add_gram(Sums& s, const float* x, int64_t rows);
  void keep_first_rows(Sums& s, const float* x, int64_t rows);
  void finish_gram(Sums& s, ActivationStats& all, ActivationStats& last) const;

  bool gram_;
  MatmulPrecision precision_;
  std::vector<int64_t> lengths_;
  int64_t last_sequences_;
  int64_t last_row_;  // the first row of the last sequences; beyond all rows where there are none
  std::array<Sums, kLinearInputs> sums_;
  std::array<ActivationStats, kLinearInputs> last_;
};

// Makes the first row of each sequence count `weight` times in the Gram matrix, because all later positions attend to
// it. Mean, max and rms stay. Does nothing when stats has no first_rows. Throws ArgumentError for a weight below 1 or
// not finite.
void weigh_first_rows(ActivationStats& stats, double weight);

}  // namespace metal_marlin
