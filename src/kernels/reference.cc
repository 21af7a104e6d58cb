// The scalar row of the dispatch table: plain loops, obviously right.
#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "kernels/kv_attention.h"
#include "kernels/tables.h"

namespace metal_marlin::internal {
namespace {

void rms_norm(const float* x, const float* weight, float offset, float eps, int64_t n, float* y) noexcept {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double factor = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i] * factor * (static_cast<double>(offset) + weight[i]));
}

void rope(float* x, const float* cos, const float* sin, int64_t half) noexcept {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

void softcap(float* x, float cap, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

float softmax(float* s, int64_t begin, int64_t end, int64_t n, float scale, float cap) noexcept {
  float largest = -INFINITY;
  for (int64_t i = begin; i < end; ++i) {
    s[i] *= scale;
    if (cap > 0) s[i] = cap * std::tanh(s[i] / cap);
    largest = std::max(largest, s[i]);
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    s[i] = i >= begin && i < end ? std::exp(s[i] - largest) : 0.0f;
    sum += s[i];
  }
  return static_cast<float>(sum);
}

template <class Act>
void act_mul(const float* gate, const float* up, int64_t n, float* out, Act act) noexcept {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(act(static_cast<double>(gate[i])) * up[i]);
}
void silu_mul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  act_mul(gate, up, n, out, [](double g) { return g / (1.0 + std::exp(-g)); });
}
void gelu_mul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  act_mul(gate, up, n, out, [](double g) { return 0.5 * g * (1.0 + std::erf(g * M_SQRT1_2)); });
}
void gelu_tanh_mul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  act_mul(gate, up, n, out,
          [](double g) { return 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g))); });
}
void relu_mul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  act_mul(gate, up, n, out, [](double g) { return std::max(g, 0.0); });
}

void add(const float* x, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}
void scale(float factor, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

void f16_to_f32_row(const uint16_t* x, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = f16_to_f32(x[i]);
}
void f32_to_f16_row(const float* x, int64_t n, uint16_t* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = f32_to_f16(x[i]);
}
void bf16_to_f32_row(const uint16_t* x, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_f32(x[i]);
}
void f32_to_bf16_row(const float* x, int64_t n, uint16_t* y) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = f32_to_bf16(x[i]);
}

void accumulate_stats_rows(const float* x, int64_t rows, int64_t cols, int64_t ld, double* sum_abs, float* max_abs,
                           double* sum_squares) noexcept {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const float v = std::fabs(x[r * ld + c]);
      sum_abs[c] += v;
      max_abs[c] = std::max(max_abs[c], v);
      sum_squares[c] += static_cast<double>(v) * v;
    }
  }
}

double log_sum_exp(const float* x, int64_t n, int64_t* argmax) noexcept {
  *argmax = std::max_element(x, x + n) - x;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - x[*argmax]);
  return x[*argmax] + std::log(sum);
}

LogitRowStats logit_row_stats(const float* p, const float* q, int64_t n) noexcept {
  LogitRowStats s;
  s.log_sum_p = log_sum_exp(p, n, &s.argmax_p);
  s.log_sum_q = log_sum_exp(q, n, &s.argmax_q);
  for (int64_t i = 0; i < n; ++i) {
    const double log_p = p[i] - s.log_sum_p;
    s.kl += std::exp(log_p) * (log_p - (q[i] - s.log_sum_q));
  }
  return s;
}

void small_gemm(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
                int64_t k) noexcept {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += a[i * lda + l] * b[l * ldb + j];
      c[i * ldc + j] = sum;
    }
  }
}

void dot_rows(const float* x, const float* rows, int64_t ld, int64_t count, int64_t d, float* out) noexcept {
  for (int64_t r = 0; r < count; ++r) {
    float sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += x[i] * rows[r * ld + i];
    out[r] = sum;
  }
}

void add_weighted_rows(const float* p, const float* rows, int64_t ld, int64_t count, int64_t d, float* out) noexcept {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < d; ++i) out[i] += p[r] * rows[r * ld + i];
  }
}

float kv_value(const AttendPage& t, int64_t at) noexcept {
  switch (t.type) {
    case KvType::kF16:
      return f16_to_f32(static_cast<const uint16_t*>(t.page)[at]);
    case KvType::kI8:
      return static_cast<const int8_t*>(t.page)[at];
    case KvType::kF32:
      break;
  }
  return static_cast<const float*>(t.page)[at];
}

void attend_page(const AttendPage& t) noexcept {
  const int64_t padded = padded_head_dim(t.head_dim);
  const int64_t values = kKvPage * t.head_dim;  // first value in the page
  const float* scales = nullptr;                // of the keys, then of the values
  if (t.type == KvType::kI8) {
    scales = reinterpret_cast<const float*>(static_cast<const int8_t*>(t.page) + values + kKvPage * padded);
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    if (t.begin[r] >= t.end[r]) continue;
    double scores[kKvPage];
    double most = t.max[r];
    for (int64_t j = t.begin[r]; j < t.end[r]; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < t.head_dim; ++i) {
        sum += static_cast<double>(t.q[r * t.head_dim + i]) * kv_value(t, i * kKvPage + j);
      }
      sum *= t.scale;
      if (scales != nullptr) sum *= scales[j];
      if (t.cap > 0) sum = t.cap * std::tanh(sum / t.cap);
      scores[j] = sum;
      most = std::max(most, sum);
    }
    most = static_cast<float>(most);
    const double fade = std::exp(t.max[r] - most);
    double total = t.sum[r] * fade;
    for (int64_t j = t.begin[r]; j < t.end[r]; ++j) total += std::exp(scores[j] - most);
    for (int64_t i = 0; i < t.head_dim; ++i) {
      double sum = t.out[r * padded + i] * fade;
      for (int64_t j = t.begin[r]; j < t.end[r]; ++j) {
        const double value = kv_value(t, values + j * padded + i) * (scales == nullptr ? 1.0 : scales[kKvPage + j]);
        sum += std::exp(scores[j] - most) * value;
      }
      t.out[r * padded + i] = static_cast<float>(sum);
    }
    t.max[r] = static_cast<float>(most);
    t.sum[r] = static_cast<float>(total);
  }
}

}  // namespace

void fill_scalar(KernelTable& t) noexcept {
  t.rms_norm = rms_norm;
  t.rope = rope;
  t.softmax = softmax;
  t.softcap = softcap;
  t.silu_mul = silu_mul;
  t.gelu_mul = gelu_mul;
  t.gelu_tanh_mul = gelu_tanh_mul;
  t.relu_mul = relu_mul;
  t.add = add;
  t.scale = scale;
  t.f16_to_f32 = f16_to_f32_row;
  t.f32_to_f16 = f32_to_f16_row;
  t.bf16_to_f32 = bf16_to_f32_row;
  t.f32_to_bf16 = f32_to_bf16_row;
  t.accumulate_stats = accumulate_stats_rows;
  t.logit_row_stats = logit_row_stats;
  t.log_sum_exp = log_sum_exp;
  t.small_gemm = small_gemm;
  t.dot_rows = dot_rows;
  t.add_weighted_rows = add_weighted_rows;
  t.attend_page = attend_page;
}

}  // namespace metal_marlin::internal
