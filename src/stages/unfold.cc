#include "stages/unfold.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/text.h"

namespace metal_marlin {
namespace {

// y = (W diag(norm)) x without the norm's weight: what a linear does whatever part of its scale stands in the norm.
void absorb_norm(std::span<const float> norm, bool offset, Matrix& w) {
  if (norm.empty()) return;
  for (int64_t r = 0; r < w.rows(); ++r) {
    for (int64_t c = 0; c < w.cols(); ++c) {
      const float n = norm[static_cast<size_t>(c)];
      w(r, c) *= offset ? 1.0F + n : n;
    }
  }
}

// Row r of B's producer is A's row divided by some s: the least-squares s, by which the row is multiplied again.
std::vector<float> unscale_rows(const Matrix& a, Matrix& b) {
  std::vector<float> factors;
  for (int64_t r = 0; r < a.rows(); ++r) {
    double ab = 0;
    double bb = 0;
    for (int64_t c = 0; c < a.cols(); ++c) {
      ab += static_cast<double>(a(r, c)) * b(r, c);
      bb += static_cast<double>(b(r, c)) * b(r, c);
    }
    const float s = bb > 0 && ab > 0 ? static_cast<float>(ab / bb) : 1.0F;
    factors.push_back(s);
    for (int64_t c = 0; c < b.cols(); ++c) b(r, c) *= s;
  }
  return factors;
}

}  // namespace

double Difference::relative() const {
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

void Difference::add(const Difference& other) {
  difference += other.difference;
  size += other.size;
  max = std::max(max, other.max);
}

Difference difference_of(const std::string& name, const Matrix& a, const Matrix& b, const std::string& a_place,
                         const std::string& b_place) {
  Difference d;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = a.data()[i];
    const double e = b.data()[i] - x;
    d.difference += e * e;
    d.size += x * x;
    d.max = std::max(d.max, std::fabs(e));
  }
  if (std::isfinite(d.difference) && std::isfinite(d.size)) return d;
  for (const auto& [matrix, place] : {std::pair{&a, &a_place}, {&b, &b_place}}) {
    const auto values = matrix->values();
    const auto at = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    if (at == values.end()) continue;
    const auto element = at - values.begin();
    throw NumericError(fmt::format("{}: tensor {}: expected finite values, found {} at element {} (row {}, column {})",
                                   *place, escaped(name), *at, element, element / matrix->cols(),
                                   element % matrix->cols()));
  }
  throw NumericError(fmt::format("{}: tensor {}: its difference to that of {} exceeds the largest number", a_place,
                                 escaped(name), b_place));
}

bool Unfolding::norm_before(LinearKind kind, NormKind& norm) noexcept {
  const LinearInput input = input_of(kind);
  if (input == LinearInput::kQkv) norm = NormKind::kInput;
  if (input == LinearInput::kGateUp) norm = NormKind::kPreFeedForward;
  return input == LinearInput::kQkv || input == LinearInput::kGateUp;
}

void Unfolding::undo(LinearKind kind, std::span<const float> norm_a, std::span<const float> norm_b, Matrix& a,
                     Matrix& b) {
  absorb_norm(norm_a, family_.offset_norm, a);
  absorb_norm(norm_b, family_.offset_norm, b);
  if (kind == LinearKind::kV) v_ = unscale_rows(a, b);
  if (kind == LinearKind::kUp) up_ = unscale_rows(a, b);
  if (kind == LinearKind::kO && !v_.empty()) {
    const int64_t shared = config_.num_attention_heads / config_.num_key_value_heads;
    const int64_t head = config_.head_dim;
    for (int64_t r = 0; r < b.rows(); ++r) {
      for (int64_t k = 0; k < b.cols(); ++k) b(r, k) /= v_[static_cast<size_t>(k / head / shared * head + k % head)];
    }
  }
  if (kind == LinearKind::kDown && !up_.empty()) {
    for (int64_t r = 0; r < b.rows(); ++r) {
      for (int64_t k = 0; k < b.cols(); ++k) b(r, k) /= up_[static_cast<size_t>(k)];
    }
  }
}

}  // namespace metal_marlin
