// The small products of attention: a register-blocked GEMM, and dot products and weighted sums of rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/products.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace metal_marlin::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Rows of the register block: R x 2 sums, 2 of b and 1 of a must fit 32 vector registers (AVX-512, NEON) or 16.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <int R, int C>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b, int64_t ldb,
                     float* HWY_RESTRICT c, int64_t ldc, int64_t k) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V sum[R][C];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < C; ++j) sum[r][j] = hn::Zero(d);
  }
  for (int64_t l = 0; l < k; ++l) {
    V vb[C];
    for (int j = 0; j < C; ++j) vb[j] = hn::LoadU(d, b + l * ldb + static_cast<size_t>(j) * lanes);
    HWY_UNROLL(12)
    for (int r = 0; r < R; ++r) {
      const V va = hn::Set(d, a[r * lda + l]);
      for (int j = 0; j < C; ++j) sum[r][j] = hn::MulAdd(va, vb[j], sum[r][j]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < C; ++j) hn::StoreU(sum[r][j], d, c + r * ldc + static_cast<size_t>(j) * lanes);
  }
}

template <int R>
void RowBlock(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t n, int64_t k) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D()));
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) Tile<R, 2>(a, lda, b + j, ldb, c + j, ldc, k);
  for (; j + lanes <= n; j += lanes) Tile<R, 1>(a, lda, b + j, ldb, c + j, ldc, k);
  for (; j < n; ++j) {
    for (int r = 0; r < R; ++r) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += a[r * lda + l] * b[l * ldb + j];
      c[r * ldc + j] = sum;
    }
  }
}

void SmallGemm(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
               int64_t k) noexcept {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) RowBlock<kRows>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k);
  for (; i + 4 <= m; i += 4) RowBlock<4>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k);
  for (; i < m; ++i) RowBlock<1>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k);
}

void DotRows(const float* x, const float* rows, int64_t ld, int64_t count, int64_t n, float* out) noexcept {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < count; ++r) {
    const float* row = rows + r * ld;
    V s0 = hn::Zero(d);
    V s1 = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
      s0 = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, row + i), s0);
      s1 = hn::MulAdd(hn::LoadU(d, x + i + lanes), hn::LoadU(d, row + i + lanes), s1);
    }
    float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
    for (; i < n; ++i) sum += x[i] * row[i];
    out[r] = sum;
  }
}

void AddWeightedRows(const float* p, const float* rows, int64_t ld, int64_t count, int64_t n, float* out) noexcept {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    V sum[4];
    for (int j = 0; j < 4; ++j) sum[j] = hn::LoadU(d, out + i + j * lanes);
    for (int64_t r = 0; r < count; ++r) {
      const V weight = hn::Set(d, p[r]);
      for (int j = 0; j < 4; ++j) sum[j] = hn::MulAdd(weight, hn::LoadU(d, rows + r * ld + i + j * lanes), sum[j]);
    }
    for (int j = 0; j < 4; ++j) hn::StoreU(sum[j], d, out + i + j * lanes);
  }
  for (; i < n; ++i) {
    for (int64_t r = 0; r < count; ++r) out[i] += p[r] * rows[r * ld + i];
  }
}

}  // namespace

void FillProducts(KernelTable& t) noexcept {
  t.small_gemm = SmallGemm;
  t.dot_rows = DotRows;
  t.add_weighted_rows = AddWeightedRows;
}

}  // namespace metal_marlin::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_marlin::internal {
bool fill_products(Isa isa, KernelTable& table) noexcept {
  MM_FILL(FillProducts)
}
}  // namespace metal_marlin::internal
#endif
