// Attention of query rows over one page of cached keys and values, with the running sums of an online softmax.
//
// A page holds kKvPage positions of one key-value head: the keys as [head_dim][kKvPage], so that the scores of
// neighbouring positions stand in one vector, then the values as [kKvPage][padded_head_dim]; in 8 bits two rows of
// kKvPage scales (f32) follow, of the keys and of the values: x = code * scale. Positions that were never written are
// zeros.
//
// Each score is one chain of fused additions over head_dim, each output one chain over the positions of the page.
// Neither depends on the other rows of the call: a row has the same bits alone and among others.
#pragma once

#include <cstdint>

namespace metal_marlin {

enum class KvType : uint8_t { kF32, kF16, kI8 };

constexpr int64_t kKvPage = 64;
constexpr int64_t kAttendRows = 48;  // rows of a call at most

// Values of a head are padded with zeros to whole vectors.
constexpr int64_t padded_head_dim(int64_t head_dim) noexcept {
  return (head_dim + 15) / 16 * 16;
}
constexpr int64_t kv_value_bytes(KvType type) noexcept {
  return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;
}
// Bytes of a page, a multiple of 64.
constexpr int64_t kv_page_bytes(KvType type, int64_t head_dim) noexcept {
  return kKvPage * (head_dim + padded_head_dim(head_dim)) * kv_value_bytes(type) +
         (type == KvType::kI8 ? 2 * kKvPage * 4 : 0);
}
// Floats of AttendPage::scratch.
constexpr int64_t attend_scratch(int64_t head_dim) noexcept {
  return kKvPage * (head_dim + padded_head_dim(head_dim) + kAttendRows);
}

struct AttendPage {
  const float* q = nullptr;  // [rows, head_dim]
  int64_t rows = 0;          // 1 to kAttendRows
  int64_t head_dim = 0;
  const void* page = nullptr;  // 64-byte aligned
  KvType type = KvType::kF16;
  const int32_t* begin = nullptr;  // [rows]: a row sees the positions begin <= p < end of the page; none where
  const int32_t* end = nullptr;    // begin >= end
  float scale = 1;                 // of the scores
  float cap = 0;                   // then cap tanh(score / cap); 0: not
  // The sums so far, updated: the largest score (-infinity at first), the sum of exp(score - max), and the sum of
  // exp(score - max) times the values, [rows, padded_head_dim].
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;
  float* scratch = nullptr;  // attend_scratch(head_dim) floats, 64-byte aligned
};

}  // namespace metal_marlin
