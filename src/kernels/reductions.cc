// Softmax of attention rows, statistics of columns, and what the evaluation wants to know of rows of logits.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reductions.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h:
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace metal_marlin::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
using DD = hn::ScalableTag<double>;
using VD = hn::Vec<DD>;
using DH = hn::Rebind<float, DD>;  // half a vector of floats

float Softmax(float* s, int64_t first, int64_t last, int64_t count, float scale, float cap) noexcept {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto begin = static_cast<size_t>(first);
  const auto end = static_cast<size_t>(last);
  const auto n = static_cast<size_t>(count);
  const V factor = hn::Set(d, scale);
  V largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  size_t i = begin;
  if (cap > 0) {
    const V limit = hn::Set(d, cap);
    const V inner = hn::Set(d, scale / cap);
    for (; i + lanes <= end; i += lanes) {
      const V v = hn::Mul(limit, hn::Tanh(d, hn::Mul(hn::LoadU(d, s + i), inner)));
      hn::StoreU(v, d, s + i);
      largest = hn::Max(largest, v);
    }
  } else {
    for (; i + lanes <= end; i += lanes) {
      const V v = hn::Mul(hn::LoadU(d, s + i), factor);
      hn::StoreU(v, d, s + i);
      largest = hn::Max(largest, v);
    }
  }
  float most = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < end; ++i) {
    s[i] = cap > 0 ? cap * std::tanh(s[i] * (scale / cap)) : s[i] * scale;
    most = std::max(most, s[i]);
  }
  std::fill(s, s + begin, 0.0f);
  std::fill(s + end, s + n, 0.0f);
  const V shift = hn::Set(d, most);
  V sum = hn::Zero(d);
  for (i = begin; i + lanes <= end; i += lanes) {
    const V e = hn::Exp(d, hn::Sub(hn::LoadU(d, s + i), shift));
    hn::StoreU(e, d, s + i);
    sum = hn::Add(sum, e);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < end; ++i) {
    s[i] = std::exp(s[i] - most);
    total += s[i];
  }
  return total;
}

void AccumulateStats(const float* x, int64_t rows, int64_t cols, int64_t ld, double* sum_abs, float* max_abs,
                     double* sum_squares) noexcept {
  constexpr int64_t kRows = 8;  // rows summed in float32 before they join the float64 sum
  const DH d;
  const DD dd;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= cols; c += lanes) {
    VD total = hn::LoadU(dd, sum_abs + c);
    VD total2 = hn::LoadU(dd, sum_squares + c);
    auto most = hn::LoadU(d, max_abs + c);
    for (int64_t r = 0; r < rows; r += kRows) {
      auto part = hn::Zero(d);
      auto part2 = hn::Zero(d);
      const int64_t end = std::min(rows, r + kRows);
      for (int64_t q = r; q < end; ++q) {
        const auto v = hn::Abs(hn::LoadU(d, x + q * ld + c));
        part = hn::Add(part, v);
        part2 = hn::MulAdd(v, v, part2);
        most = hn::Max(most, v);
      }
      total = hn::Add(total, hn::PromoteTo(dd, part));
      total2 = hn::Add(total2, hn::PromoteTo(dd, part2));
    }
    hn::StoreU(total, dd, sum_abs + c);
    hn::StoreU(total2, dd, sum_squares + c);
    hn::StoreU(most, d, max_abs + c);
  }
  for (; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      const float v = std::fabs(x[r * ld + c]);
      sum_abs[c] += v;
      max_abs[c] = std::max(max_abs[c], v);
      sum_squares[c] += static_cast<double>(v) * v;
    }
  }
}

int64_t ArgMax(const float* x, int64_t count) noexcept {
  const D d;
  const auto n = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  float most = x[0];
  size_t i = 0;
  if (n >= lanes) {
    V largest = hn::LoadU(d, x);
    for (i = lanes; i + lanes <= n; i += lanes) largest = hn::Max(largest, hn::LoadU(d, x + i));
    most = hn::GetLane(hn::MaxOfLanes(d, largest));
  }
  for (; i < n; ++i) most = std::max(most, x[i]);
  const V wanted = hn::Set(d, most);
  for (i = 0; i + lanes <= n; i += lanes) {
    const intptr_t at = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, x + i), wanted));
    if (at >= 0) return static_cast<int64_t>(i) + at;
  }
  while (i + 1 < n && x[i] != most) ++i;
  return static_cast<int64_t>(i);
}

double LogSumExp(const float* x, int64_t n, int64_t* argmax) noexcept {
  *argmax = ArgMax(x, n);
  const float most = x[*argmax];
  const DH d;
  const DD dd;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, most);
  VD sum = hn::Zero(dd);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    sum = hn::Add(sum, hn::PromoteTo(dd, hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), shift))));
  }
  double total = hn::GetLane(hn::SumOfLanes(dd, sum));
  for (; i < n; ++i) total += std::exp(static_cast<double>(x[i]) - most);
  return most + std::log(total);
}

LogitRowStats RowStats(const float* p, const float* q, int64_t n) noexcept {
  LogitRowStats s;
  s.log_sum_p = LogSumExp(p, n, &s.argmax_p);
  s.log_sum_q = LogSumExp(q, n, &s.argmax_q);
  const DH d;
  const DD dd;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float most = p[s.argmax_p];
  const auto shift = hn::Set(d, most);
  const double offset = s.log_sum_q - s.log_sum_p;
  const VD difference = hn::Set(dd, offset);
  VD sum = hn::Zero(dd);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto vp = hn::LoadU(d, p + i);
    const auto vq = hn::LoadU(d, q + i);
    const VD weight = hn::PromoteTo(dd, hn::Exp(d, hn::Sub(vp, shift)));
    // The difference of the log probabilities is taken in float64: the KL divergence is its small second order.
    sum = hn::MulAdd(weight, hn::Add(hn::Sub(hn::PromoteTo(dd, vp), hn::PromoteTo(dd, vq)), difference), sum);
  }
  double total = hn::GetLane(hn::SumOfLanes(dd, sum));
  for (; i < n; ++i) {
    total += std::exp(static_cast<double>(p[i]) - most) * (static_cast<double>(p[i]) - q[i] + offset);
  }
  s.kl = total * std::exp(most - s.log_sum_p);
  return s;
}

}  // namespace

void FillReductions(KernelTable& t) noexcept {
  t.softmax = Softmax;
  t.accumulate_stats = AccumulateStats;
  t.log_sum_exp = LogSumExp;
  t.logit_row_stats = RowStats;
}

}  // namespace metal_marlin::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_marlin::internal {
bool fill_reductions(Isa isa, KernelTable& table) noexcept {
  MM_FILL(FillReductions)
}
}  // namespace metal_marlin::internal
#endif
