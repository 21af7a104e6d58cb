// Attention over a page of cached keys and values for every instruction set. Few rows read the page as it is stored;
// for more it is turned into floats once. Both multiply the same floats in the same order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_attention.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h:
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/half.h"
#include "kernels/kv_attention.h"
#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace metal_marlin::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// The register block: kRows x kColumns sums, kColumns vectors of keys or values and one of queries.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kColumns = 4;
#else
constexpr int kColumns = 2;
#endif
constexpr int kRows = 6;

struct F16 {
  uint16_t bits;
};

HWY_INLINE V LoadFloats(D d, const float* x) {
  return hn::LoadU(d, x);
}
HWY_INLINE V LoadFloats(D d, const F16* x) {
#if HWY_TARGET == HWY_SSE4
  // Highway's emulation there is slow; a page of many rows is turned into floats before.
  HWY_ALIGN float y[4];
  for (int i = 0; i < 4; ++i) y[i] = f16_to_f32(x[i].bits);
  return hn::Load(d, y);
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(x)));
#endif
}
HWY_INLINE V LoadFloats(D d, const int8_t* x) {
  const hn::Rebind<int8_t, D> d8;
  const hn::RebindToSigned<D> d32;
  return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, x)));
}

// p [R][kKvPage] = q [R][head_dim] times keys [head_dim][kKvPage].
template <int R, class T>
void Scores(const float* HWY_RESTRICT q, int64_t head_dim, const T* HWY_RESTRICT keys, float* HWY_RESTRICT p) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t column = 0; column < kKvPage; column += kColumns * lanes) {
    V sum[R][kColumns];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kColumns; ++c) sum[r][c] = hn::Zero(d);
    }
    const T* k = keys + column;
    for (int64_t i = 0; i < head_dim; ++i, k += kKvPage) {
      V vk[kColumns];
      for (int c = 0; c < kColumns; ++c) vk[c] = LoadFloats(d, k + c * lanes);
      HWY_UNROLL(6)
      for (int r = 0; r < R; ++r) {
        const V vq = hn::Set(d, q[r * head_dim + i]);
        for (int c = 0; c < kColumns; ++c) sum[r][c] = hn::MulAdd(vq, vk[c], sum[r][c]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kColumns; ++c) hn::StoreU(sum[r][c], d, p + r * kKvPage + column + c * lanes);
    }
  }
}

template <int R, int C, class T>
HWY_INLINE void ValueColumns(const float* HWY_RESTRICT p, const T* HWY_RESTRICT values, int64_t padded, int64_t begin,
                             int64_t end, const float* HWY_RESTRICT fade, float* HWY_RESTRICT out) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sum[R][C];
  for (int r = 0; r < R; ++r) {
    const V factor = hn::Set(d, fade[r]);
    for (int c = 0; c < C; ++c) sum[r][c] = hn::Mul(hn::LoadU(d, out + r * padded + c * lanes), factor);
  }
  const T* v = values + begin * padded;
  for (int64_t j = begin; j < end; ++j, v += padded) {
    V vv[C];
    for (int c = 0; c < C; ++c) vv[c] = LoadFloats(d, v + c * lanes);
    HWY_UNROLL(6)
    for (int r = 0; r < R; ++r) {
      const V weight = hn::Set(d, p[r * kKvPage + j]);
      for (int c = 0; c < C; ++c) sum[r][c] = hn::MulAdd(weight, vv[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) hn::StoreU(sum[r][c], d, out + r * padded + c * lanes);
  }
}

// out [R][padded] = fade out + p [R][begin..end) times values. Positions that a row does not see have p = 0.
template <int R, class T>
void AddValues(const float* p, const T* values, int64_t padded, int64_t begin, int64_t end, const float* fade,
               float* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D()));
  int64_t c = 0;
  for (; c + kColumns * lanes <= padded; c += kColumns * lanes) {
    ValueColumns<R, kColumns>(p, values + c, padded, begin, end, fade, out + c);
  }
  for (; c < padded; c += lanes) ValueColumns<R, 1>(p, values + c, padded, begin, end, fade, out + c);
}

template <class F>
HWY_INLINE void ByRows(int64_t rows, const F& f) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) f(r, std::integral_constant<int, kRows>());
  switch (rows - r) {
    case 5:
      return f(r, std::integral_constant<int, 5>());
    case 4:
      return f(r, std::integral_constant<int, 4>());
    case 3:
      return f(r, std::integral_constant<int, 3>());
    case 2:
      return f(r, std::integral_constant<int, 2>());
    case 1:
      return f(r, std::integral_constant<int, 1>());
    default:
      return;
  }
}

// Which positions of the page a row sees; kWhole: all of them.
template <bool kWhole>
struct Seen {
  V first, last;
  Seen(const AttendPage& t, int64_t row)
      : first(hn::Set(D(), static_cast<float>(t.begin[row]))), last(hn::Set(D(), static_cast<float>(t.end[row]))) {}
  HWY_INLINE V OrElse(V x, int64_t j, float otherwise) const {
    if constexpr (kWhole) return x;
    const D d;
    const V at = hn::Iota(d, static_cast<float>(j));
    return hn::IfThenElse(hn::And(hn::Ge(at, first), hn::Lt(at, last)), x, hn::Set(d, otherwise));
  }
};

// Scales a row's products to its scores and returns the largest, or t.max where that is larger.
template <bool kWhole>
HWY_INLINE float ScoresOfRow(const AttendPage& t, int64_t row, const float* key_scale, float* p) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Seen<kWhole> seen(t, row);
  const V scale = hn::Set(d, t.scale);
  V most = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < kKvPage; j += lanes) {
    V s = hn::Mul(hn::LoadU(d, p + j), scale);
    if (key_scale != nullptr) s = hn::Mul(s, hn::LoadU(d, key_scale + j));
    if (t.cap > 0) {
      const V cap = hn::Set(d, t.cap);
      s = hn::Mul(cap, hn::Tanh(d, hn::Div(s, cap)));
    }
    s = seen.OrElse(s, j, -std::numeric_limits<float>::infinity());
    hn::StoreU(s, d, p + j);
    most = hn::Max(most, s);
  }
  return std::max(t.max[row], hn::GetLane(hn::MaxOfLanes(d, most)));
}

// Turns a row's scores into exp(score - now) and returns their sum.
template <bool kWhole>
HWY_INLINE float ExpOfRow(const AttendPage& t, int64_t row, float now, const float* value_scale, float* p) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Seen<kWhole> seen(t, row);
  const V shift = hn::Set(d, now);
  V sum = hn::Zero(d);
  for (int64_t j = 0; j < kKvPage; j += lanes) {
    const V s = hn::LoadU(d, p + j);
    // Exp() makes 0 of NaN; s - s keeps it.
    V e = seen.OrElse(hn::Add(hn::Exp(d, hn::Sub(s, shift)), hn::Sub(s, s)), j, 0.0f);
    sum = hn::Add(sum, e);
    if (value_scale != nullptr) e = hn::Mul(e, hn::LoadU(d, value_scale + j));
    hn::StoreU(e, d, p + j);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// Turns products p [rows][kKvPage] into exp(score - max), updates max and sum; fade [rows]: what the sums before are
// multiplied by. All largest scores come first, so that no row waits for its own.
void Softmax(const AttendPage& t, const float* key_scale, const float* value_scale, float* p, float* fade) {
  float now[kAttendRows];
  const auto whole = [&](int64_t r) { return t.begin[r] <= 0 && t.end[r] >= kKvPage; };
  for (int64_t r = 0; r < t.rows; ++r) {
    if (t.begin[r] >= t.end[r]) continue;
    now[r] = whole(r) ? ScoresOfRow<true>(t, r, key_scale, p + r * kKvPage)
                      : ScoresOfRow<false>(t, r, key_scale, p + r * kKvPage);
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    float* scores = p + r * kKvPage;
    fade[r] = 1;
    if (t.begin[r] >= t.end[r]) {
      std::fill(scores, scores + kKvPage, 0.0f);
      continue;
    }
    const float sum = whole(r) ? ExpOfRow<true>(t, r, now[r], value_scale, scores)
                               : ExpOfRow<false>(t, r, now[r], value_scale, scores);
    if (t.max[r] != now[r]) fade[r] = std::exp(t.max[r] - now[r]);
    t.max[r] = now[r];
    t.sum[r] = t.sum[r] * fade[r] + sum;
  }
}

template <class T>
void AttendStored(const AttendPage& t, const T* keys, const T* values, const float* key_scale, const float* value_scale,
                  float* p) {
  const int64_t padded = padded_head_dim(t.head_dim);
  ByRows(t.rows, [&](int64_t r, auto n) { Scores<n.value>(t.q + r * t.head_dim, t.head_dim, keys, p + r * kKvPage); });
  float fade[kAttendRows];
  Softmax(t, key_scale, value_scale, p, fade);
  ByRows(t.rows, [&](int64_t r, auto n) {
    int32_t begin = kKvPage;
    int32_t end = 0;
    for (int64_t i = r; i < r + n.value; ++i) {
      if (t.begin[i] >= t.end[i]) continue;
      begin = std::min(begin, t.begin[i]);
      end = std::max(end, t.end[i]);
    }
    if (begin >= end) return;
    AddValues<n.value>(p + r * kKvPage, values, padded, begin, end, fade + r, t.out + r * padded);
  });
}

template <class T>
void AttendTyped(const AttendPage& t) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t padded = padded_head_dim(t.head_dim);
  const auto* keys = static_cast<const T*>(t.page);
  const T* values = keys + kKvPage * t.head_dim;
  const float* key_scale = nullptr;
  const float* value_scale = nullptr;
  if constexpr (std::is_same_v<T, int8_t>) {
    key_scale = reinterpret_cast<const float*>(values + kKvPage * padded);
    value_scale = key_scale + kKvPage;
  }
  float* p = t.scratch;
  if (std::is_same_v<T, float> || t.rows <= kRows) {
    AttendStored(t, keys, values, key_scale, value_scale, p);
    return;
  }
  float* floats = p + kAttendRows * kKvPage;
  const int64_t count = kKvPage * (t.head_dim + padded);
  for (int64_t i = 0; i < count; i += lanes) hn::StoreU(LoadFloats(d, keys + i), d, floats + i);
  AttendStored<float>(t, floats, floats + kKvPage * t.head_dim, key_scale, value_scale, p);
}

void AttendPageOf(const AttendPage& t) noexcept {
  switch (t.type) {
    case KvType::kF32:
      return AttendTyped<float>(t);
    case KvType::kF16:
      return AttendTyped<F16>(t);
    case KvType::kI8:
      return AttendTyped<int8_t>(t);
  }
}

}  // namespace

void FillKvAttention(KernelTable& t) noexcept {
  t.attend_page = AttendPageOf;
}

}  // namespace metal_marlin::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_marlin::internal {
bool fill_kv_attention(Isa isa, KernelTable& table) noexcept {
  MM_FILL(FillKvAttention)
}
}  // namespace metal_marlin::internal
#endif
