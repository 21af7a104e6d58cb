// The GEMM provider: y = x W^T on one core, by oneDNN's matmul. Callers share the work between threads by rows and by
// panels of W; since a call never uses more than one thread, the bytes do not depend on how many threads there are.
// Measured (Zen 4, one core, M = 128): 108-117 GFLOP/s in f32 and 218-234 in bf16 for K, N from 64 to 4096, against
// 82-105 (f32) of OpenBLAS 0.3.21.
#pragma once

#include <metal_marlin/options.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

// True where the processor multiplies bf16 (AVX512_BF16; DNNL_MAX_CPU_ISA is respected).
bool has_bf16_gemm();
// True where it does so faster than f32: AMD's have twice the rate, Intel's the same one or less (0.6 was measured),
// but with AMX.
bool prefers_bf16_gemm();
// The name of the instruction set that oneDNN uses here, for reports: "avx512_core_bf16", "avx2", ...
std::string gemm_isa_name();
// GFLOP/s of one core on packed tiles that stay in its cache, the best of about 0.15 s, by processor time. kBF16
// without hardware: f32.
double gemm_rate(MatmulPrecision type);

// A weight [out_features, in_features] in oneDNN's own layout (bf16: rounded to nearest even), in panels of at most
// kPanel output features. Costs one pass over the weight; holds rows x columns x 4 (bf16: 2) bytes, padded to blocks.
class PackedWeight {
 public:
  static constexpr int64_t kPanel = 512;
  PackedWeight() = default;
  // W is row-major [out_features, in_features] and not needed afterwards. Packs the panels in parallel.
  PackedWeight(const float* weight, int64_t out_features, int64_t in_features, MatmulPrecision type);
  // No copy: W itself in float32, which must outlive this. For weights too large to hold twice; 3-6 % slower.
  static PackedWeight view(const float* weight, int64_t out_features, int64_t in_features);

  MatmulPrecision type() const noexcept { return type_; }
  int64_t out_features() const noexcept { return out_features_; }
  int64_t in_features() const noexcept { return in_features_; }
  int64_t panels() const noexcept { return width_ == 0 ? 0 : (out_features_ + width_ - 1) / width_; }
  int64_t panel_begin(int64_t panel) const noexcept { return panel * width_; }
  int64_t panel_width(int64_t panel) const noexcept;
  uint64_t bytes() const noexcept;  // held; 0 for a view

  // out [rows, panel_width(panel)] = x [rows, in_features] W[panel]^T, both contiguous; x in type() (see gemm_input).
  // With AVX-512 (not with AMX, in bf16) a row's result does not depend on the other rows; else their number may change
  // its last bits.
  void multiply(int64_t panel, const void* x, int64_t rows, float* out) const;

 private:
  void choose_panels();
  MatmulPrecision type_ = MatmulPrecision::kF32;
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  int64_t width_ = 0;
  std::vector<Buffer> data_;
  const float* view_ = nullptr;
};

// x as multiply() wants it: x itself for kF32, else its bf16 copy in the calling thread's scratch memory, valid until
// the thread's next call.
const void* gemm_input(MatmulPrecision type, const float* x, int64_t count);

// y [rows, out_features], row stride ldy, = x W^T + bias (bias may be null), on the calling thread.
void linear_rows(const PackedWeight& weight, const float* x, int64_t rows, const float* bias, float* y, int64_t ldy);
// The same, shared between threads by panels: for few rows.
void linear_panels(const PackedWeight& weight, const float* x, int64_t rows, const float* bias, float* y, int64_t ldy);

// out [rows, count] = x [rows, in_features] W^T for W row-major as stored, [count, in_features] of `type` (x too),
// on the calling thread. For weights that are used once; costs a few per cent more than a packed one.
void multiply_stored(MatmulPrecision type, const void* weight, int64_t count, int64_t in_features, const void* x,
                     int64_t rows, float* out);

// C [m, n] += A^T B on the calling thread; A [k, m] and B [k, n] in bf16, C in float32, sums in float32. ld*: elements
// between rows. Needs has_bf16_gemm().
void add_transposed_product(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, int64_t m, int64_t n,
                            int64_t k, float* c, int64_t ldc);

// Scratch memory of the calling thread, at least `count` floats, kept until the thread ends; slot 0..7 tells apart
// what is alive at once.
float* thread_scratch(int slot, int64_t count);

}  // namespace metal_marlin
