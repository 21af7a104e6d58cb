// Attention: of whole sequences over their own keys, and of new queries over a cache. Internal to model/.
#pragma once

#include <cstdint>
#include <span>

namespace metal_marlin {

class KvCache;

// Attention of some queries of one sequence over one key-value head.
// Row-major views; queries and output hold `group` heads side by side, head g at column g * head_dim.
struct AttentionTask {
  const float* q = nullptr;  // query of position first_query
  int64_t ldq = 0;
  int64_t group = 1;  // query heads that share the key-value head
  int64_t head_dim = 0;
  int64_t first_query = 0;  // positions first_query .. first_query + queries - 1
  int64_t queries = 0;
  const float* k = nullptr;  // key of position 0
  const float* v = nullptr;
  int64_t ldk = 0;     // of k and v
  int64_t window = 0;  // 0: position p sees 0 .. p, else p - window + 1 .. p
  float scale = 1;
  float cap = 0;         // soft cap of the scores, 0: none
  float* out = nullptr;  // output of position first_query
  int64_t ldo = 0;
};

// The first position that a query at `position` sees.
inline int64_t first_visible(int64_t position, int64_t window) noexcept {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Computes out = softmax(cap(scale q k^T)) v on the calling thread. A few queries go one by one. Many go in blocks,
// whose scratch is kQueryBlock x keys scores and a copy of the keys.
void attend(const AttentionTask& task);

// New queries of one sequence, whose keys and values are in the cache already: its last `queries` positions.
struct CachedQueries {
  int64_t sequence = 0;
  int64_t queries = 0;
  const float* q = nullptr;  // [queries, heads * head_dim], row stride `ld`
  float* out = nullptr;      // the same shape and stride
};
struct CachedAttention {
  int64_t layer = 0;
  int64_t kv_heads = 0;
  int64_t group = 1;  // query heads that share a key-value head
  int64_t head_dim = 0;
  int64_t ld = 0;
  int64_t window = 0;
  float scale = 1;
  float cap = 0;
};
// Computes the same over the pages of a cache, shared between threads. A position's result depends neither on how many
// queries come with it, nor on other sequences, nor on the number of threads: sums go over pages in their order, and
// spans of kAttendSpan positions are added in their order.
void attend_cached(const KvCache& cache, const CachedAttention& shape, std::span<const CachedQueries> sequences);

constexpr int64_t kAttendSpan = 512;  // a multiple of kKvPage

constexpr int64_t kQueryBlock = 96;  // a multiple of the GEMM's 12 and 6 rows
constexpr int64_t kFewQueries = 8;   // with fewer, copying the keys into panels costs more than it saves

}  // namespace metal_marlin
