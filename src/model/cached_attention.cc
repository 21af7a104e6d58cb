#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/interrupt.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "kernels/kv_attention.h"
#include "model/attention.h"
#include "model/kv_cache.h"

namespace metal_marlin {
namespace {

enum Slot { kPageScratch = 4, kQueries = 5, kPartial = 6, kRunning = 7 };  // of thread_scratch

constexpr int64_t kPagesOfSpan = kAttendSpan / kKvPage;

// Some rows (a query of a head each) of one sequence that share a key-value head.
struct Tile {
  const CachedQueries* sequence;
  int64_t kv_head;
  int64_t first_head;  // among the heads of the group
  int64_t heads;
  int64_t first_query;  // among the sequence's new ones
  int64_t queries;
  int64_t position;    // of first_query
  int64_t span_begin;  // of the spans that some row sees
  int64_t span_end;

  int64_t rows() const noexcept { return queries * heads; }
};

// The sums of an online softmax of some rows: max, sum, then out [rows, padded].
struct Sums {
  float* max;
  float* sum;
  float* out;

  Sums(float* memory, int64_t rows) : max(memory), sum(memory + rows), out(memory + 2 * rows) {}
  static int64_t floats(int64_t rows, int64_t padded) noexcept { return rows * (padded + 2); }
  void clear(int64_t rows, int64_t padded) const {
    std::fill_n(max, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, rows, 0.0f);
    std::fill_n(out, rows * padded, 0.0f);
  }
};

// Adds the sums of the next span.
void fold(const Sums& to, const Sums& from, int64_t rows, int64_t padded) {
  for (int64_t r = 0; r < rows; ++r) {
    if (from.sum[r] == 0) continue;  // the row sees nothing of the span
    const float most = std::max(to.max[r], from.max[r]);
    const float a = std::exp(to.max[r] - most);
    const float b = std::exp(from.max[r] - most);
    to.max[r] = most;
    to.sum[r] = to.sum[r] * a + from.sum[r] * b;
    float* y = to.out + r * padded;
    const float* x = from.out + r * padded;
    for (int64_t i = 0; i < padded; ++i) y[i] = y[i] * a + x[i] * b;
  }
}

class Work {
 public:
  Work(const KvCache& cache, const CachedAttention& shape)
      : cache_(cache), shape_(shape), padded_(padded_head_dim(shape.head_dim)) {}

  void add(const CachedQueries& s) {
    const int64_t past = cache_.length(shape_.layer, s.sequence) - s.queries;
    for (int64_t kv = 0; kv < shape_.kv_heads; ++kv) {
      for (int64_t head = 0; head < shape_.group; head += kAttendRows) {
        const int64_t heads = std::min(kAttendRows, shape_.group - head);
        const int64_t step = std::max<int64_t>(1, kAttendRows / heads);
        for (int64_t q = 0; q < s.queries; q += step) {
          Tile t{&s, kv, head, heads, q, std::min(step, s.queries - q), past + q, 0, 0};
          t.span_begin = first_visible(t.position, shape_.window) / kAttendSpan;
          t.span_end = (t.position + t.queries - 1) / kAttendSpan + 1;
          tiles_.push_back(t);
        }
      }
    }
  }

  void run(bool many) {
    // What many queries ask of a long cache may take seconds.
    const auto stop = [&] {
      if (many) stop_if_asked();
    };
    int64_t spans = 0;
    int64_t floats = 0;
    for (const Tile& t : tiles_) {
      spans += t.span_end - t.span_begin;
      floats += (t.span_end - t.span_begin) * Sums::floats(t.rows(), padded_);
    }
    const auto tiles = static_cast<int64_t>(tiles_.size());
    // With few tiles the threads share their spans too. The sums are the same.
    if (tiles >= 4 * threads() || spans == tiles || threads() == 1) {
      parallel_for(tiles, [&](int64_t i) {
        stop();
        whole(tiles_[static_cast<size_t>(i)]);
      });
      return;
    }
    struct Part {
      size_t tile;
      int64_t span;
      int64_t at;
    };
    std::vector<Part> parts;
    std::vector<int64_t> first(tiles_.size());
    int64_t at = 0;
    for (size_t i = 0; i < tiles_.size(); ++i) {
      first[i] = at;
      for (int64_t span = tiles_[i].span_begin; span < tiles_[i].span_end; ++span) {
        parts.push_back({i, span, at});
        at += Sums::floats(tiles_[i].rows(), padded_);
      }
    }
    std::vector<float> memory(static_cast<size_t>(floats));
    parallel_for(static_cast<int64_t>(parts.size()), [&](int64_t i) {
      stop();
      const Part& part = parts[static_cast<size_t>(i)];
      const Tile& t = tiles_[part.tile];
      attend_span(t, gather(t), part.span, Sums(memory.data() + part.at, t.rows()));
    });
    for (size_t i = 0; i < tiles_.size(); ++i) {
      const Tile& t = tiles_[i];
      const int64_t rows = t.rows();
      const Sums running(thread_scratch(kRunning, Sums::floats(rows, padded_)), rows);
      running.clear(rows, padded_);
      for (int64_t n = 0; n < t.span_end - t.span_begin; ++n) {
        fold(running, Sums(memory.data() + first[i] + n * Sums::floats(rows, padded_), rows), rows, padded_);
      }
      finish(t, running);
    }
  }

 private:
  void whole(const Tile& t) const {
    const int64_t rows = t.rows();
    const float* q = gather(t);
    const Sums running(thread_scratch(kRunning, Sums::floats(rows, padded_)), rows);
    const Sums partial(thread_scratch(kPartial, Sums::floats(rows, padded_)), rows);
    running.clear(rows, padded_);
    for (int64_t span = t.span_begin; span < t.span_end; ++span) {
      attend_span(t, q, span, partial);
      fold(running, partial, rows, padded_);
    }
    finish(t, running);
  }

  // The tile's queries side by side: [rows, head_dim].
  const float* gather(const Tile& t) const {
    const int64_t d = shape_.head_dim;
    float* q = thread_scratch(kQueries, t.rows() * d);
    for (int64_t i = 0; i < t.queries; ++i) std::copy_n(row(t, t.sequence->q, i), t.heads * d, q + i * t.heads * d);
    return q;
  }

  template <class T>
  T* row(const Tile& t, T* base, int64_t query) const {
    return base + (t.first_query + query) * shape_.ld + (t.kv_head * shape_.group + t.first_head) * shape_.head_dim;
  }

  void attend_span(const Tile& t, const float* q, int64_t span, const Sums& sums) const {
    const int64_t rows = t.rows();
    sums.clear(rows, padded_);
    int32_t begin[kAttendRows];
    int32_t end[kAttendRows];
    AttendPage task;
    task.q = q;
    task.rows = rows;
    task.head_dim = shape_.head_dim;
    task.type = cache_.type();
    task.begin = begin;
    task.end = end;
    task.scale = shape_.scale;
    task.cap = shape_.cap;
    task.max = sums.max;
    task.sum = sums.sum;
    task.out = sums.out;
    task.scratch = thread_scratch(kPageScratch, attend_scratch(shape_.head_dim));
    const int64_t first = std::max(span * kPagesOfSpan, first_visible(t.position, shape_.window) / kKvPage);
    const int64_t last = std::min((span + 1) * kPagesOfSpan - 1, (t.position + t.queries - 1) / kKvPage);
    for (int64_t page = first; page <= last; ++page) {
      const int64_t start = page * kKvPage;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t position = t.position + r / t.heads;
        begin[r] =
            static_cast<int32_t>(std::clamp<int64_t>(first_visible(position, shape_.window) - start, 0, kKvPage));
        end[r] = static_cast<int32_t>(std::clamp<int64_t>(position + 1 - start, 0, kKvPage));
      }
      task.page = cache_.page(shape_.layer, t.sequence->sequence, page, t.kv_head);
      kernels().attend_page(task);
    }
  }

  void finish(const Tile& t, const Sums& sums) const {
    for (int64_t r = 0; r < t.rows(); ++r) {
      float* out = row(t, t.sequence->out, r / t.heads) + r % t.heads * shape_.head_dim;
      const float factor = 1.0f / sums.sum[r];
      for (int64_t i = 0; i < shape_.head_dim; ++i) out[i] = sums.out[r * padded_ + i] * factor;
    }
  }

  const KvCache& cache_;
  const CachedAttention& shape_;
  int64_t padded_;
  std::vector<Tile> tiles_;
};

}  // namespace

void attend_cached(const KvCache& cache, const CachedAttention& shape, std::span<const CachedQueries> sequences) {
  Work work(cache, shape);
  for (const CachedQueries& s : sequences) work.add(s);
  constexpr int64_t kManyQueries = 64;
  work.run(std::any_of(sequences.begin(), sequences.end(),
                       [](const CachedQueries& s) { return s.queries >= kManyQueries; }));
}

}  // namespace metal_marlin
