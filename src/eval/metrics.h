// Collects scored positions and computes perplexity, KL divergence, its spread, and the agreement of the top token.
#pragma once

#include <metal_marlin/evaluate.h>
#include <cstdint>
#include <vector>

namespace metal_marlin {

class Metrics {
 public:
  // Adds rows of logits [rows, vocab] of the model and of the reference (null: none), and the token that follows each
  // row. Log-softmax in float64: perplexity = exp(mean of -log q[target]); KL = sum p (log p - log q) over the
  // vocabulary.
  void add(const float* logits, const float* reference, const int32_t* targets, int64_t rows, int64_t vocab);
  // Positions are in the order in which they were added. p99: the value below which 99 % of the positions lie
  // (the element of rank floor(0.99 n), 1-based, as torch.kthvalue takes it).
  Evaluation result() const;
  int64_t positions() const noexcept { return static_cast<int64_t>(nll_.size()); }

 private:
  std::vector<double> nll_;
  std::vector<double> reference_nll_;
  std::vector<double> kl_;
  int64_t same_ = 0;
};

}  // namespace metal_marlin
