// The KL divergence between models that differ little, held as the lanes of one stream.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "eval/score.h"

namespace metal_marlin {

// Tokens of some probability in the reference, and KL(reference || other) of a row of logits. Tokens that are less
// probable than 0.005 / vocabulary are left out: together they have less than that share.
class Divergence {
 public:
  void set_reference(const float* logits, int64_t vocab);
  // With d = the difference of the logits: log(sum p e^d) - sum p d, exact for small d too. NaN or infinity where the
  // logits of one of the two hold such a value.
  double operator()(const float* logits) const;

 private:
  std::vector<int64_t> index_;
  std::vector<double> share_;
  std::vector<float> logit_;
};

inline constexpr int64_t kDivergenceRows = 64;  // of a lane at a time

// Of a lane, over all rows of the states.
struct LaneDivergence {
  double mean = 0;
  double mean_square = 0;
};

// The divergence of every lane from lane 0, whose own stays 0. refuse is called with the lane and the row where a
// divergence is NaN or infinite; it must throw. progress is called before each lane's rows.
std::vector<LaneDivergence> lane_divergences(const FinalStates& model, int64_t lanes,
                                             const std::function<void(int64_t lane, int64_t row)>& refuse,
                                             const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace metal_marlin
