#include "model/attention.h"

#include <algorithm>

#include "kernels/dispatch.h"
#include "kernels/gemm.h"

namespace metal_marlin {
namespace {

constexpr int64_t kKeyPanel = 32;  // keys side by side in a panel: two AVX-512 vectors
constexpr int64_t kRowBlock = 12;  // queries that share the bounds of their keys in the second product

enum Slot { kScores = 4, kPackedKeys = 5 };  // of thread_scratch

// Panel j holds keys first + j * kKeyPanel ..., as [head_dim][kKeyPanel]; missing ones are zero.
const float* pack_keys(const AttentionTask& t, int64_t first, int64_t end) {
  const int64_t panels = (end - first + kKeyPanel - 1) / kKeyPanel;
  float* packed = thread_scratch(kPackedKeys, panels * kKeyPanel * t.head_dim);
  for (int64_t j = 0; j < panels; ++j) {
    const int64_t begin = first + j * kKeyPanel;
    const int64_t count = std::min(kKeyPanel, end - begin);
    const float* from = t.k + begin * t.ldk;
    float* to = packed + j * kKeyPanel * t.head_dim;
    for (int64_t d = 0; d < t.head_dim; ++d) {
      for (int64_t c = 0; c < count; ++c) to[d * kKeyPanel + c] = from[c * t.ldk + d];
      for (int64_t c = count; c < kKeyPanel; ++c) to[d * kKeyPanel + c] = 0;
    }
  }
  return packed;
}

void attend_one(const AttentionTask& t, int64_t row, int64_t head) {
  const auto& kern = kernels();
  const int64_t position = t.first_query + row;
  const int64_t begin = first_visible(position, t.window);
  const int64_t count = position + 1 - begin;
  const int64_t at = begin * t.ldk;
  float* scores = thread_scratch(kScores, count);
  kern.dot_rows(t.q + row * t.ldq + head * t.head_dim, t.k + at, t.ldk, count, t.head_dim, scores);
  const float sum = kern.softmax(scores, 0, count, count, t.scale, t.cap);
  float* out = t.out + row * t.ldo + head * t.head_dim;
  std::fill(out, out + t.head_dim, 0.0f);
  kern.add_weighted_rows(scores, t.v + at, t.ldk, count, t.head_dim, out);
  kern.scale(1.0f / sum, t.head_dim, out);
}

// Queries row .. row + rows - 1 of one head; packed: panels from position `base` on.
void attend_block(const AttentionTask& t, const float* packed, int64_t base, int64_t row, int64_t rows, int64_t head) {
  const auto& kern = kernels();
  const int64_t first = t.first_query + row;
  const int64_t block_begin = base + (first_visible(first, t.window) - base) / kKeyPanel * kKeyPanel;
  const int64_t block_end = first + rows;
  const int64_t ld = (block_end - block_begin + kKeyPanel - 1) / kKeyPanel * kKeyPanel;
  float* scores = thread_scratch(kScores, kQueryBlock * ld);
  const float* q = t.q + row * t.ldq + head * t.head_dim;
  for (int64_t key = block_begin; key < block_end; key += kKeyPanel) {
    // Queries before the panel's first key do not see it, nor do those whose window begins after its last key.
    const int64_t top = std::max<int64_t>(0, key - first) / kRowBlock * kRowBlock;
    const int64_t bottom = t.window > 0 ? std::min(rows, key + kKeyPanel - 1 + t.window - first) : rows;
    if (bottom <= top) continue;
    kern.small_gemm(q + top * t.ldq, t.ldq, packed + (key - base) * t.head_dim, kKeyPanel,
                    scores + top * ld + key - block_begin, ld, bottom - top, kKeyPanel, t.head_dim);
  }
  for (int64_t r = 0; r < rows; r += kRowBlock) {
    const int64_t m = std::min(kRowBlock, rows - r);
    const int64_t begin = first_visible(first + r, t.window);
    const int64_t end = first + r + m;
    float* s = scores + r * ld + begin - block_begin;
    float sums[kRowBlock];
    for (int64_t i = 0; i < m; ++i) {
      const int64_t position = first + r + i;
      sums[i] = kern.softmax(s + i * ld, first_visible(position, t.window) - begin, position + 1 - begin, end - begin,
                             t.scale, t.cap);
    }
    float* out = t.out + (row + r) * t.ldo + head * t.head_dim;
    kern.small_gemm(s, ld, t.v + begin * t.ldk, t.ldk, out, t.ldo, m, t.head_dim, end - begin);
    for (int64_t i = 0; i < m; ++i) kern.scale(1.0f / sums[i], t.head_dim, out + i * t.ldo);
  }
}

}  // namespace

void attend(const AttentionTask& t) {
  if (t.queries < kFewQueries) {
    for (int64_t r = 0; r < t.queries; ++r) {
      for (int64_t h = 0; h < t.group; ++h) attend_one(t, r, h);
    }
    return;
  }
  const int64_t base = first_visible(t.first_query, t.window);
  const float* packed = pack_keys(t, base, t.first_query + t.queries);
  for (int64_t r = 0; r < t.queries; r += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, t.queries - r);
    for (int64_t h = 0; h < t.group; ++h) attend_block(t, packed, base, r, rows, h);
  }
}

}  // namespace metal_marlin
