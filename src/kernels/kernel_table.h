// A row of the table of float kernels (dispatch.h): an implementation of every kernel for one instruction set. Matrices
// are row-major float32; pointers need no alignment; nothing overlaps unless it says so. Kernels run on the calling
// thread, allocate nothing and sum in a fixed order, so that equal rows give equal bytes.
#pragma once

#include <cstdint>

namespace metal_marlin {

struct AttendPage;

enum class Isa : uint8_t { kScalar, kSse4, kAvx2, kAvx512, kNeon };

// What the distribution q says about p, both softmax of a row of logits. Sums in float64.
struct LogitRowStats {
  double log_sum_p = 0;  // log of the sum of exp(p)
  double log_sum_q = 0;
  double kl = 0;         // KL(p || q) in nats
  int64_t argmax_p = 0;  // the first of the largest
  int64_t argmax_q = 0;
};

struct KernelTable {
  Isa isa = Isa::kScalar;

  // y = x / sqrt(mean(x^2) + eps) * (offset + weight), n values; y may be x.
  void (*rms_norm)(const float* x, const float* weight, float offset, float eps, int64_t n, float* y) noexcept;
  // Rotary embedding of one head, in place: with a = x[i], b = x[half + i], i < half:
  // x[i] = a cos[i] - b sin[i], x[half + i] = b cos[i] + a sin[i] (Hugging Face's rotate_half).
  void (*rope)(float* x, const float* cos, const float* sin, int64_t half) noexcept;
  // One row of attention scores s[0..n), in place: scaled, soft-capped (cap tanh(s / cap); 0: not), then
  // exp(s - max) for begin <= i < end and 0 outside. Returns the sum, by which the caller divides; >= 1 when begin <
  // end.
  float (*softmax)(float* s, int64_t begin, int64_t end, int64_t n, float scale, float cap) noexcept;
  // y = cap tanh(x / cap), in place.
  void (*softcap)(float* x, float cap, int64_t n) noexcept;
  // out = act(gate) * up; out may be gate or up.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out) noexcept;
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* out) noexcept;       // by erf
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* out) noexcept;  // tanh approximation
  void (*relu_mul)(const float* gate, const float* up, int64_t n, float* out) noexcept;
  void (*add)(const float* x, int64_t n, float* y) noexcept;  // y += x
  void (*scale)(float factor, int64_t n, float* y) noexcept;  // y *= factor
  // Conversions; to 16 bits: nearest, ties to even, as core/half.h.
  void (*f16_to_f32)(const uint16_t* x, int64_t n, float* y) noexcept;
  void (*f32_to_f16)(const float* x, int64_t n, uint16_t* y) noexcept;
  void (*bf16_to_f32)(const uint16_t* x, int64_t n, float* y) noexcept;
  void (*f32_to_bf16)(const float* x, int64_t n, uint16_t* y) noexcept;

  // Adds the rows of x [rows, cols], row stride ld, to per-column sums: sum_abs += |x|, max_abs = max(max_abs, |x|),
  // sum_squares += x^2. float64 sums of partial sums of 8 rows in float32.
  void (*accumulate_stats)(const float* x, int64_t rows, int64_t cols, int64_t ld, double* sum_abs, float* max_abs,
                           double* sum_squares) noexcept;
  // See LogitRowStats; n >= 1, all finite.
  LogitRowStats (*logit_row_stats)(const float* p, const float* q, int64_t n) noexcept;
  // log of the sum of exp(x), and the first index of the maximum.
  double (*log_sum_exp)(const float* x, int64_t n, int64_t* argmax) noexcept;

  // c [m, n] = a [m, k] b [k, n], row strides lda, ldb, ldc; each element one chain of fused (scalar: plain) additions
  // in the order of k, so that it does not depend on m and n. For the small products of attention.
  void (*small_gemm)(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
                     int64_t n, int64_t k) noexcept;
  // out[r] = sum over d of x[d] rows[r * ld + d].
  void (*dot_rows)(const float* x, const float* rows, int64_t ld, int64_t count, int64_t d, float* out) noexcept;
  // out[d] += sum over r of p[r] rows[r * ld + d].
  void (*add_weighted_rows)(const float* p, const float* rows, int64_t ld, int64_t count, int64_t d,
                            float* out) noexcept;
  // Attention over a page of cached keys and values: see kv_attention.h.
  void (*attend_page)(const AttendPage& task) noexcept;
};

}  // namespace metal_marlin
