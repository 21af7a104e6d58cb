#include "kernels/linear_algebra.h"

#include <cblas.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/counted.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/one_thread.h"

extern "C" {
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info, size_t uplo_length);
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info, size_t uplo_length);
void dtrtri_(const char* uplo, const char* diag, const int* n, double* a, const int* lda, int* info, size_t uplo_length,
             size_t diag_length);
}

namespace metal_marlin {
namespace {

CBLAS_TRANSPOSE op(bool transpose) noexcept {
  return transpose ? CblasTrans : CblasNoTrans;
}
blasint size(int64_t n) noexcept {
  return static_cast<blasint>(n);
}
int64_t tiles_of(int64_t n, int64_t tile) noexcept {
  return (n + tile - 1) / tile;
}

// The tile (row, column), row <= column, of the upper half numbered row by row.
struct TilePair {
  int64_t row;
  int64_t column;
};
std::vector<TilePair> upper_tiles(int64_t tiles) {
  std::vector<TilePair> pairs;
  pairs.reserve(static_cast<size_t>(tiles * (tiles + 1) / 2));
  for (int64_t r = 0; r < tiles; ++r) {
    for (int64_t c = r; c < tiles; ++c) pairs.push_back({r, c});
  }
  return pairs;
}

// Overloads by element type, one thread each.
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc) noexcept {
  dgemm_tile(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
          int64_t ldb, float beta, float* c, int64_t ldc) noexcept {
  sgemm_tile(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
// Lower half of C -= A A^T, A [n, k].
void rank_update(int64_t n, int64_t k, const double* a, int64_t lda, double* c, int64_t ldc) noexcept {
  const OneThreadBlas guard;
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, size(n), size(k), -1.0, a, size(lda), 1.0, c, size(ldc));
}
void rank_update(int64_t n, int64_t k, const float* a, int64_t lda, float* c, int64_t ldc) noexcept {
  const OneThreadBlas guard;
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, size(n), size(k), -1.0f, a, size(lda), 1.0f, c, size(ldc));
}
// B [m, n] <- B L^-T, L [n, n] lower.
void solve_right(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb) noexcept {
  const OneThreadBlas guard;
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, size(m), size(n), 1.0, l, size(ldl), b,
              size(ldb));
}
void solve_right(int64_t m, int64_t n, const float* l, int64_t ldl, float* b, int64_t ldb) noexcept {
  const OneThreadBlas guard;
  cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, size(m), size(n), 1.0f, l, size(ldl), b,
              size(ldb));
}
// LAPACK's info: 0, or the 1-based pivot that failed. Row-major lower is LAPACK's upper.
int potrf(int64_t n, double* a, int64_t lda) noexcept {
  const OneThreadBlas guard;
  const int order = size(n);
  const int stride = size(lda);
  int info = 0;
  dpotrf_("U", &order, a, &stride, &info, 1);
  return info;
}
int potrf(int64_t n, float* a, int64_t lda) noexcept {
  const OneThreadBlas guard;
  const int order = size(n);
  const int stride = size(lda);
  int info = 0;
  spotrf_("U", &order, a, &stride, &info, 1);
  return info;
}

// Measured at n = 576 and 1536: tiles of 64 to 256 differ by little more than the noise, 128 being the best of them.
constexpr int64_t kFactorTile = 128;

// Left-looking: each tile is brought up to date by one product over all columns before it, so that it is read and
// written once.
template <typename T>
int64_t cholesky(T* a, int64_t n) {
  for (int64_t start = 0; start < n; start += kFactorTile) {
    const int64_t width = std::min(kFactorTile, n - start);
    const int64_t below = tiles_of(n - start, kFactorTile);
    const T* panel = a + start * n;
    if (start > 0) {
      parallel_for(below, [&](int64_t i) {
        const int64_t row = start + i * kFactorTile;
        const int64_t height = std::min(kFactorTile, n - row);
        if (i == 0) {
          rank_update(width, start, panel, n, a + start * n + start, n);
        } else {
          gemm(false, true, height, width, start, T(-1), a + row * n, n, panel, n, T(1), a + row * n + start, n);
        }
      });
    }
    if (const int info = potrf(width, a + start * n + start, n); info != 0) return start + std::max(info, 1) - 1;
    parallel_for(below - 1, [&](int64_t i) {
      const int64_t row = start + (i + 1) * kFactorTile;
      solve_right(std::min(kFactorTile, n - row), width, a + start * n + start, n, a + row * n + start, n);
    });
  }
  return -1;
}

}  // namespace

void sgemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) noexcept {
  const OneThreadBlas guard;
  cblas_sgemm(CblasRowMajor, op(transpose_a), op(transpose_b), size(m), size(n), size(k), alpha, a, size(lda), b,
              size(ldb), beta, c, size(ldc));
}

void dgemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
                int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) noexcept {
  const OneThreadBlas guard;
  cblas_dgemm(CblasRowMajor, op(transpose_a), op(transpose_b), size(m), size(n), size(k), alpha, a, size(lda), b,
              size(ldb), beta, c, size(ldc));
}

void ssyrk_tile(int64_t n, int64_t k, float alpha, const float* a, int64_t lda, float beta, float* c,
                int64_t ldc) noexcept {
  const OneThreadBlas guard;
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, size(n), size(k), alpha, a, size(lda), beta, c, size(ldc));
}

void quadratic_rows(const float* e, int64_t rows, int64_t lde, const float* gram, int64_t ldg, int64_t k,
                    float* scratch, double* out) noexcept {
  std::fill_n(out, rows, 0.0);
  for (int64_t start = 0; start < k; start += kQuadraticColumns) {
    const int64_t width = std::min(kQuadraticColumns, k - start);
    // 2 E_before G_before,block + E_block G_block: the pairs below the diagonal blocks are counted by the factor 2.
    if (start > 0) {
      sgemm_tile(false, false, rows, width, start, 2.0f, e, lde, gram + start, ldg, 0.0f, scratch, width);
    }
    {
      const OneThreadBlas guard;
      cblas_ssymm(CblasRowMajor, CblasRight, CblasUpper, size(rows), size(width), 1.0f, gram + start * ldg + start,
                  size(ldg), e + start, size(lde), start > 0 ? 1.0f : 0.0f, scratch, size(width));
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* t = scratch + r * width;
      const float* row = e + r * lde + start;
      // Sixteen lanes in a fixed order: exact enough in float32 over 16 terms, then float64.
      double sum = 0;
      int64_t c = 0;
      for (; c + 16 <= width; c += 16) {
        float lanes[16];
        for (int i = 0; i < 16; ++i) lanes[i] = t[c + i] * row[c + i];
        for (int i = 0; i < 8; ++i) lanes[i] += lanes[i + 8];
        for (int i = 0; i < 4; ++i) lanes[i] += lanes[i + 4];
        sum += static_cast<double>((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]));
      }
      for (; c < width; ++c) sum += static_cast<double>(t[c] * row[c]);
      out[r] += sum;
    }
  }
}

namespace {

// Equal tiles of at most 384: at k = 576 and 1536 they reach 0.88 to 0.95 of the sgemm rate where tiles of 128 reach
// 0.75, since the packing of a tile's inputs is spread over more products.
int64_t gram_tile(int64_t k) noexcept {
  const int64_t tiles = tiles_of(k, 384);
  return (tiles_of(k, tiles) + 15) / 16 * 16;
}

// Equal tiles of at most 192: smaller ones waste less of the lower half, and 96 to 384 run equally fast.
int64_t bf16_gram_tile(int64_t k) noexcept {
  const int64_t tiles = tiles_of(k, 192);
  return (tiles_of(k, tiles) + 31) / 32 * 32;
}

void gram_accumulate_bf16(const float* x, int64_t tokens, int64_t k, Matrix& gram) {
  const int64_t tile = bf16_gram_tile(k);
  const std::vector<TilePair> pairs = upper_tiles(tiles_of(k, tile));
  Buffer memory(static_cast<size_t>(std::min(tokens, kBF16GramTokens) * k) * sizeof(uint16_t));
  auto* rounded = reinterpret_cast<uint16_t*>(memory.data());
  for (int64_t first = 0; first < tokens; first += kBF16GramTokens) {
    const int64_t rows = std::min(kBF16GramTokens, tokens - first);
    constexpr int64_t kRows = 64;
    parallel_for(tiles_of(rows, kRows), [&](int64_t i) {
      const int64_t row = i * kRows;
      kernels().f32_to_bf16(x + (first + row) * k, std::min(kRows, rows - row) * k, rounded + row * k);
    });
    parallel_for(static_cast<int64_t>(pairs.size()), [&](int64_t i) {
      const auto [r, c] = pairs[static_cast<size_t>(i)];
      const int64_t row = r * tile;
      const int64_t column = c * tile;
      add_transposed_product(rounded + row, k, rounded + column, k, std::min(tile, k - row), std::min(tile, k - column),
                             rows, gram.data() + row * k + column, k);
    });
  }
}

}  // namespace

void gram_accumulate(const float* x, int64_t tokens, int64_t k, Matrix& gram, MatmulPrecision type) {
  if (gram.rows() != k || gram.cols() != k) {
    throw ArgumentError(fmt::format("gram: expected [{}, {}], the square of the input's channels, found [{}, {}]", k, k,
                                    gram.rows(), gram.cols()));
  }
  if (tokens <= 0) return;
  if (type == MatmulPrecision::kBF16 && has_bf16_gemm()) return gram_accumulate_bf16(x, tokens, k, gram);
  const int64_t tile = gram_tile(k);
  const std::vector<TilePair> pairs = upper_tiles(tiles_of(k, tile));
  parallel_for(static_cast<int64_t>(pairs.size()), [&](int64_t i) {
    const auto [r, c] = pairs[static_cast<size_t>(i)];
    const int64_t row = r * tile;
    const int64_t column = c * tile;
    const int64_t height = std::min(tile, k - row);
    const int64_t width = std::min(tile, k - column);
    float* out = gram.data() + row * k + column;
    if (r == c) {
      ssyrk_tile(height, tokens, 1.0f, x + row, k, 1.0f, out, k);
    } else {
      sgemm_tile(true, false, height, width, tokens, 1.0f, x + row, k, x + column, k, 1.0f, out, k);
    }
  });
}

void gram_finish(Matrix& gram, uint64_t tokens) {
  const int64_t k = gram.rows();
  const float factor = static_cast<float>(1.0 / static_cast<double>(std::max<uint64_t>(tokens, 1)));
  constexpr int64_t kTile = 64;
  const std::vector<TilePair> pairs = upper_tiles(tiles_of(k, kTile));
  parallel_for(static_cast<int64_t>(pairs.size()), [&](int64_t i) {
    const auto [tile_row, tile_column] = pairs[static_cast<size_t>(i)];
    for (int64_t r = tile_row * kTile; r < std::min((tile_row + 1) * kTile, k); ++r) {
      for (int64_t c = std::max(r, tile_column * kTile); c < std::min((tile_column + 1) * kTile, k); ++c) {
        const float value = gram(r, c) * factor;
        gram(r, c) = value;
        gram(c, r) = value;
      }
    }
  });
}

void scale_gram(Matrix& gram, std::span<const float> scale) {
  const int64_t k = gram.rows();
  if (gram.cols() != k || static_cast<int64_t>(scale.size()) != k) {
    throw ArgumentError(fmt::format("scale: expected {} for a Gram matrix of [{}, {}], found {}", counted(k, "value"),
                                    gram.rows(), gram.cols(), scale.size()));
  }
  constexpr int64_t kRows = 64;
  parallel_for(tiles_of(k, kRows), [&](int64_t i) {
    for (int64_t r = i * kRows; r < std::min((i + 1) * kRows, k); ++r) {
      float* row = gram.data() + r * k;
      for (int64_t c = 0; c < k; ++c) row[c] /= scale[static_cast<size_t>(r)] * scale[static_cast<size_t>(c)];
    }
  });
}

int64_t cholesky_lower(double* a, int64_t n) {
  return cholesky(a, n);
}
int64_t cholesky_lower(float* a, int64_t n) {
  return cholesky(a, n);
}

void invert_lower(double* l, int64_t n) {
  Buffer panel_bytes(static_cast<size_t>(n * kFactorTile) * sizeof(double));
  Buffer product_bytes(static_cast<size_t>(n * kFactorTile) * sizeof(double));
  auto* panel = reinterpret_cast<double*>(panel_bytes.data());
  auto* product = reinterpret_cast<double*>(product_bytes.data());
  // From the last block column to the first: X_ij = -(sum over j < m <= i of X_im L_mj) X_jj.
  for (int64_t start = (tiles_of(n, kFactorTile) - 1) * kFactorTile; start >= 0; start -= kFactorTile) {
    const int64_t width = std::min(kFactorTile, n - start);
    const int64_t after = start + width;
    {
      const OneThreadBlas guard;
      const int order = size(width);
      const int stride = size(n);
      int info = 0;
      dtrtri_("U", "N", &order, l + start * n + start, &stride, &info, 1, 1);
    }
    for (int64_t r = after; r < n; ++r) {
      std::memcpy(panel + (r - after) * width, l + r * n + start, static_cast<size_t>(width) * sizeof(double));
    }
    parallel_for(tiles_of(n - after, kFactorTile), [&](int64_t i) {
      const int64_t row = after + i * kFactorTile;
      const int64_t height = std::min(kFactorTile, n - row);
      double* t = product + (row - after) * width;
      // The diagonal block of X is lower triangular; above its diagonal lie values of no meaning, so it is multiplied
      // apart.
      std::memcpy(t, panel + (row - after) * width, static_cast<size_t>(height * width) * sizeof(double));
      {
        const OneThreadBlas guard;
        cblas_dtrmm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, size(height), size(width), 1.0,
                    l + row * n + row, size(n), t, size(width));
      }
      if (row > after) {
        dgemm_tile(false, false, height, width, row - after, 1.0, l + row * n + after, n, panel, width, 1.0, t, width);
      }
      {
        const OneThreadBlas guard;
        cblas_dtrmm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, size(height), size(width), -1.0,
                    l + start * n + start, size(n), t, size(width));
      }
      for (int64_t r = 0; r < height; ++r) {
        std::memcpy(l + (row + r) * n + start, t + r * width, static_cast<size_t>(width) * sizeof(double));
      }
    });
  }
}

}  // namespace metal_marlin
