// Collects scored positions and computes perplexity, KL divergence, its spread, and the agreement of the top token.
#pragma once

#include <metal_marlin/report_records.h>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

class Metrics {
 public:
  // `model` and `reference`: their names in messages.
  explicit Metrics(std::string model = "the model", std::string reference = "the reference")
      : model_(std::move(model)), reference_(std::move(reference)) {}

  // The rows that are added next are those of the next chunk, from its first position: messages count from there.
  void begin_chunk() { chunks_.push_back(positions()); }
  // Adds rows of logits [rows, vocab] of the model and of the reference (null: none), and the token that follows each
  // row. Log-softmax in float64: perplexity = exp(mean of -log q[target]); KL = sum p (log p - log q) over the
  // vocabulary. NumericError, with the model, the chunk and the token, where one of these is not finite.
  void add(const float* logits, const float* reference, const int32_t* targets, int64_t rows, int64_t vocab);
  // Positions are in the order in which they were added. p99: the value below which 99 % of the positions lie
  // (the element of rank floor(0.99 n), 1-based, as torch.kthvalue takes it). Bits and bytes are left at 0.
  // NumericError, with the token that is the least likely, where a perplexity exceeds the range of float64.
  EvaluationRecord result() const;
  int64_t positions() const noexcept { return static_cast<int64_t>(nll_.size()); }

 private:
  // "token 17 of chunk 3", both counted from 1, of the position with this number.
  std::string place_of(size_t position) const;
  double perplexity_of(const std::vector<double>& nll, const std::string& name) const;

  std::string model_;
  std::string reference_;
  std::vector<int64_t> chunks_;  // the number of positions when each began
  std::vector<double> nll_;
  std::vector<double> reference_nll_;
  std::vector<double> kl_;
  int64_t same_ = 0;
};

}  // namespace metal_marlin
