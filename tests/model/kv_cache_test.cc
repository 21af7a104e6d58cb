// The pool of pages, and attention over it: against float64, the same bits for any cutting into pieces, any number of
// threads and any neighbours; shared beginnings; windows that give pages back.
#include "model/kv_cache.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "core/random.h"
#include "core/threads.h"
#include "model/attention.h"

namespace metal_marlin {
namespace {

constexpr int64_t kKvHeads = 2;
constexpr int64_t kGroup = 3;
constexpr int64_t kDim = 16;
constexpr int64_t kKvWidth = kKvHeads * kDim;
constexpr int64_t kWidth = kKvHeads * kGroup * kDim;

ModelConfig config_of(std::vector<int64_t> windows) {
  ModelConfig c;
  c.num_hidden_layers = static_cast<int64_t>(windows.size());
  c.num_key_value_heads = kKvHeads;
  c.num_attention_heads = kKvHeads * kGroup;
  c.head_dim = kDim;
  c.sliding_window.assign(windows.begin(), windows.end());
  return c;
}

std::vector<float> values(int64_t rows, int64_t cols, uint64_t stream) {
  Random random(3, stream);
  std::vector<float> v(static_cast<size_t>(rows * cols));
  for (auto& x : v) x = static_cast<float>(random.normal());
  return v;
}

// A sequence of `length` positions with its queries, fed in pieces.
struct Sequence {
  int64_t length;
  std::vector<float> q, k, v, out;

  Sequence(int64_t n, uint64_t stream)
      : length(n),
        q(values(n, kWidth, stream)),
        k(values(n, kKvWidth, stream + 100)),
        v(values(n, kKvWidth, stream + 200)),
        out(static_cast<size_t>(n * kWidth)) {}
  void append(KvCache& cache, int64_t layer, int64_t sequence, int64_t first, int64_t count) const {
    cache.append(layer, sequence, k.data() + first * kKvWidth, v.data() + first * kKvWidth, kKvWidth, count);
  }
  CachedQueries queries(int64_t sequence, int64_t first, int64_t count) {
    return {sequence, count, q.data() + first * kWidth, out.data() + first * kWidth};
  }
};

CachedAttention shape(int64_t layer, int64_t window) {
  return {layer, kKvHeads, kGroup, kDim, kWidth, window, 0.25f, 0};
}

std::vector<float> run(const Sequence& source, KvType type, int64_t window, const std::vector<int64_t>& pieces) {
  Sequence s = source;
  KvCache cache(config_of({window}), 1, s.length, type);
  int64_t done = 0;
  for (size_t i = 0; done < s.length; ++i) {
    const int64_t count = std::min(pieces[i % pieces.size()], s.length - done);
    s.append(cache, 0, 0, done, count);
    const CachedQueries q[] = {s.queries(0, done, count)};
    attend_cached(cache, shape(0, window), q);
    done += count;
  }
  return s.out;
}

// The result of one query head at one position, in float64.
std::vector<double> reference(const Sequence& s, int64_t position, int64_t head, int64_t window) {
  std::vector<double> out(kDim, 0.0);
  double sum = 0;
  for (int64_t p = first_visible(position, window); p <= position; ++p) {
    double score = 0;
    const int64_t at = p * kKvWidth + head / kGroup * kDim;
    for (int64_t i = 0; i < kDim; ++i) {
      score += static_cast<double>(s.q[static_cast<size_t>(position * kWidth + head * kDim + i)]) *
               s.k[static_cast<size_t>(at + i)];
    }
    const double weight = std::exp(0.25 * score);
    sum += weight;
    for (int64_t i = 0; i < kDim; ++i) out[static_cast<size_t>(i)] += weight * s.v[static_cast<size_t>(at + i)];
  }
  for (double& x : out) x /= sum;
  return out;
}

TEST(KvCache, AttentionEqualsFloat64) {
  const Sequence s(1300, 1);  // three spans
  for (const int64_t window : {0, 100, 700}) {
    // float32 rounding; float16 keys and values of size 4 are off by 4 * 2^-12; 8 bits by 4 / 254, averaged.
    const std::pair<KvType, double> types[] = {{KvType::kF32, 3e-6}, {KvType::kF16, 4e-3}, {KvType::kI8, 5e-2}};
    for (const auto& [type, tolerance] : types) {
      const auto out = run(s, type, window, {256});
      for (const int64_t position : {0, 1, 63, 64, 99, 100, 101, 511, 512, 700, 1299}) {
        for (int64_t head = 0; head < kKvHeads * kGroup; ++head) {
          const auto want = reference(s, position, head, window);
          for (int64_t i = 0; i < kDim; ++i) {
            EXPECT_NEAR(out[static_cast<size_t>(position * kWidth + head * kDim + i)], want[static_cast<size_t>(i)],
                        tolerance)
                << "type " << static_cast<int>(type) << " window " << window << " position " << position;
          }
        }
      }
    }
  }
}

TEST(KvCache, PiecesAndThreadsDoNotChangeABit) {
  const Sequence s(1300, 2);
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    for (const int64_t window : {0, 100}) {
      std::vector<float> want;
      for (const int threads : {1, 2, 5}) {
        const ThreadCount thread_count(threads);
        for (const std::vector<int64_t>& pieces :
             {std::vector<int64_t>{1300}, {256}, {1}, {17, 1, 1, 300}, {640, 1, 1, 1, 1, 1}}) {
          const auto got = run(s, type, window, pieces);
          if (want.empty()) want = got;
          EXPECT_EQ(0, std::memcmp(got.data(), want.data(), want.size() * 4))
              << "type " << static_cast<int>(type) << " window " << window << " pieces of " << pieces[0] << ", "
              << threads << " threads";
        }
      }
    }
  }
}

TEST(KvCache, NeighboursDoNotChangeABit) {
  Sequence a(600, 3);
  Sequence b(70, 4);
  Sequence c(530, 5);
  Sequence* all[] = {&a, &b, &c};
  KvCache cache(config_of({0}), 3, 600);
  std::vector<CachedQueries> queries;
  for (int64_t s = 0; s < 3; ++s) {
    all[s]->append(cache, 0, s, 0, all[s]->length);
    queries.push_back(all[s]->queries(s, 0, all[s]->length));
  }
  attend_cached(cache, shape(0, 0), queries);
  for (const Sequence* s : all) EXPECT_EQ(s->out, run(*s, KvType::kF16, 0, {s->length}));
}

TEST(KvCache, ASequenceGoesOnFromTheBeginningOfAnother) {
  const Sequence a(300, 6);
  Sequence b = a;  // the first 200 positions are equal
  const Sequence other(300, 7);
  std::copy(other.k.begin() + 200 * kKvWidth, other.k.end(), b.k.begin() + 200 * kKvWidth);
  std::copy(other.q.begin() + 200 * kWidth, other.q.end(), b.q.begin() + 200 * kWidth);
  KvCache cache(config_of({0}), 2, 300);
  a.append(cache, 0, 0, 0, 300);
  const uint64_t before = cache.bytes();
  cache.fork(0, 1, 200);
  EXPECT_EQ(cache.bytes(), before);
  EXPECT_EQ(cache.length(0, 1), 200);
  b.append(cache, 0, 1, 200, 100);
  const CachedQueries q[] = {b.queries(1, 200, 100)};
  attend_cached(cache, shape(0, 0), q);
  const auto want = run(b, KvType::kF16, 0, {300});
  EXPECT_EQ(0, std::memcmp(b.out.data() + 200 * kWidth, want.data() + 200 * kWidth, size_t{100} * kWidth * 4));
  // The first sequence has its own positions still.
  Sequence again = a;
  const CachedQueries last[] = {again.queries(0, 299, 1)};
  attend_cached(cache, shape(0, 0), last);
  const auto alone = run(a, KvType::kF16, 0, {300});
  EXPECT_EQ(0, std::memcmp(again.out.data() + 299 * kWidth, alone.data() + 299 * kWidth, kWidth * 4));
  cache.truncate(0, 0);
  cache.truncate(1, 0);
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(KvCache, WindowsGiveBackWhatNobodySees) {
  const Sequence s(1000, 8);
  KvCache cache(config_of({0, 100}), 1, 1000);
  uint64_t most = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    s.append(cache, 0, 0, i, 1);
    s.append(cache, 1, 0, i, 1);
    most = std::max(most, cache.bytes());
  }
  const uint64_t page = static_cast<uint64_t>(kKvHeads * kv_page_bytes(KvType::kF16, kDim));
  // 16 pages of the whole layer; of the other at most those of 100 positions, one begun at each end, and one more.
  EXPECT_LE(most, (16 + 4) * page);
  EXPECT_TRUE(cache.can_truncate(0, 1000));
  EXPECT_TRUE(cache.can_truncate(0, 970));
  EXPECT_FALSE(cache.can_truncate(0, 500));
  EXPECT_TRUE(cache.can_truncate(0, 0));
  EXPECT_THROW(cache.truncate(0, 500), ArgumentError);
  cache.truncate(0, 970);
  EXPECT_EQ(cache.length(1, 0), 970);
  cache.truncate(0, 0);
  EXPECT_EQ(cache.bytes(), 0u);
  s.append(cache, 1, 0, 0, 1000);
  EXPECT_EQ(cache.length(1, 0), 1000);
}

TEST(KvCache, NotANumberIsNotLost) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    Sequence s(3, 9);
    s.k[kKvWidth] = std::nanf("");
    const auto out = run(s, type, 0, {3});
    EXPECT_FALSE(std::isnan(out[0]));
    EXPECT_TRUE(std::isnan(out[kWidth])) << static_cast<int>(type);
  }
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  EXPECT_THROW(KvCache(config_of({0}), 0, 4), ArgumentError);
  EXPECT_THROW(KvCache(config_of({0}), 1, 0), ArgumentError);
  EXPECT_THROW(KvCache(config_of({0}), int64_t{1} << 40, int64_t{1} << 40), ArgumentError);
  KvCache cache(config_of({0}), 1, 2);
  const Sequence s(3, 1);
  s.append(cache, 0, 0, 0, 2);
  EXPECT_THROW(s.append(cache, 0, 0, 2, 1), ArgumentError);
  cache.set_capacity(3);
  s.append(cache, 0, 0, 2, 1);
  EXPECT_THROW(cache.truncate(1, 0), ArgumentError);
  EXPECT_THROW(cache.fork(0, 1, 1), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin
