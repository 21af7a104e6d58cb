// The error of a checkpoint's weights against another's, with what folding moved between neighbours undone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "families/config/model_config.h"
#include "families/family.h"

namespace metal_marlin {

struct Difference {
  double difference = 0;  // sum (b - a)^2
  double size = 0;        // sum a^2
  double max = 0;         // max |b - a|
  double relative() const;
  void add(const Difference& other);
};

// NumericError naming `name` when a value is NaN or Inf. The shapes must be equal.
// NumericError "WHERE: tensor NAME: ..." with the element where one of them holds NaN or infinity; `a_place` and
// `b_place` are the models.
Difference difference_of(const std::string& name, const Matrix& a, const Matrix& b, const std::string& a_place,
                         const std::string& b_place);

// The linears of one block in two checkpoints, A the original and B made from it. Activation-aware scales of B stand in
// its norms, in the rows of v and up, and in the columns of their readers; undone, only the error of the weights is
// left. Both weights are changed in place. Call it for v before o, and for up before down: their rows tell the scales.
class Unfolding {
 public:
  Unfolding(const Family& family, const ModelConfig& config) : family_(family), config_(config) {}

  // The norm that feeds a linear of this kind; false: none does.
  static bool norm_before(LinearKind kind, NormKind& norm) noexcept;
  // norm_a, norm_b: the weights of the norm that feeds the linear, as stored; empty: there is none.
  void undo(LinearKind kind, std::span<const float> norm_a, std::span<const float> norm_b, Matrix& a, Matrix& b);

 private:
  const Family& family_;
  const ModelConfig& config_;
  std::vector<float> v_;  // by which the rows of v and up are multiplied
  std::vector<float> up_;
};

}  // namespace metal_marlin
