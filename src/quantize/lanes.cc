#include "quantize/lanes.h"

// The arrays of vectors below need types of known size.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quantize/lanes.cc"
#include <hwy/foreach_target.h>
// clang-format off
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace metal_marlin {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V code_of(V w, V scale, V zero, V top) {
  const D d;
  return hn::Min(hn::Max(hn::Add(hn::Round(hn::Div(w, scale)), zero), hn::Zero(d)), top);
}

int64_t first_not_finite(const float* values, int64_t count) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    if (!hn::AllTrue(d, hn::IsFinite(hn::LoadU(d, values + i)))) break;
  }
  for (; i < count; ++i) {
    if (!(values[i] - values[i] == 0.0f)) return i;
  }
  return -1;
}

void min_max(const float* values, int64_t count, float* min, float* max) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  float low = values[0];
  float high = values[0];
  int64_t i = 0;
  if (count >= lanes) {
    V lows = hn::LoadU(d, values);
    V highs = lows;
    for (i = lanes; i + lanes <= count; i += lanes) {
      const V v = hn::LoadU(d, values + i);
      lows = hn::Min(lows, v);
      highs = hn::Max(highs, v);
    }
    low = hn::GetLane(hn::MinOfLanes(d, lows));
    high = hn::GetLane(hn::MaxOfLanes(d, highs));
  }
  for (; i < count; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
  }
  *min = low;
  *max = high;
}

void round_span(const float* w, int64_t count, float scale, float zero, float minimum, float top, uint8_t* codes) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint8_t, D> db;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vs = hn::Set(d, scale);
  const V vz = hn::Set(d, zero);
  const V vm = hn::Set(d, minimum);
  const V vt = hn::Set(d, top);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const V c = code_of(hn::Sub(hn::LoadU(d, w + i), vm), vs, vz, vt);
    hn::StoreU(hn::DemoteTo(db, hn::ConvertTo(di, c)), db, codes + i);
  }
  if (i < count) {
    HWY_ALIGN_MAX float in[kLaneRows] = {};
    HWY_ALIGN_MAX float out[kLaneRows];
    for (int64_t r = i; r < count; ++r) in[r - i] = w[r];
    hn::Store(code_of(hn::Sub(hn::Load(d, in), vm), vs, vz, vt), d, out);
    for (int64_t r = i; r < count; ++r) codes[r] = static_cast<uint8_t>(out[r - i]);
  }
}

void round_error_span(const float* w, const float* reference, const float* unscale, int64_t count, float scale,
                      float zero, float minimum, float top, float* error) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vs = hn::Set(d, scale);
  const V vz = hn::Set(d, zero);
  const V vm = hn::Set(d, minimum);
  const V vt = hn::Set(d, top);
  const auto error_of = [&](const float* values, const float* factors, const float* references) HWY_ATTR {
    const V code = code_of(hn::Sub(hn::LoadU(d, values), vm), vs, vz, vt);
    const V value = hn::Add(hn::Mul(hn::Sub(code, vz), vs), vm);
    return hn::MulSub(value, hn::LoadU(d, factors), hn::LoadU(d, references));
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(error_of(w + i, unscale + i, reference + i), d, error + i);
  if (i < count) {
    HWY_ALIGN_MAX float in[3][kLaneRows] = {};
    HWY_ALIGN_MAX float out[kLaneRows];
    for (int64_t r = i; r < count; ++r) {
      in[0][r - i] = w[r];
      in[1][r - i] = unscale[r];
      in[2][r - i] = reference[r];
    }
    hn::Store(error_of(in[0], in[1], in[2]), d, out);
    for (int64_t r = i; r < count; ++r) error[r] = out[r - i];
  }
}

// The number of columns at a time. With kVectors of rows they fill the register file: 16 accumulators where there are
// 32 registers, 8 where there are 16.
constexpr int kColumns = 4;
constexpr int kVectors = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 4 : 2;

void quadratic_losses(const float* w, const float* packed, int64_t count, const float* scale, const float* zero,
                      float top, float* scratch, float* loss) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vt = hn::Set(d, top);
  for (int64_t r = 0; r < kLaneRows; r += lanes) {
    const V s = hn::LoadU(d, scale + r);
    const V z = hn::LoadU(d, zero + r);
    const V inverse = hn::Div(hn::Set(d, 1.0f), s);
    V sum = hn::Zero(d);
    for (int64_t k = 0; k < count; ++k) {
      const V x = hn::LoadU(d, w + k * kLaneRows + r);
      const V c = hn::Min(hn::Max(hn::Add(hn::Round(hn::Mul(x, inverse)), z), hn::Zero(d)), vt);
      const V e = hn::MulSub(hn::Sub(c, z), s, x);
      sum = hn::MulAdd(e, e, sum);
      if (packed != nullptr) hn::StoreU(e, d, scratch + k * kLaneRows + r);
    }
    hn::StoreU(sum, d, loss + r);
  }
  if (packed == nullptr) return;
  for (int64_t r = 0; r < kLaneRows; r += kVectors * lanes) {
    V total[kVectors];
#pragma GCC unroll 4
    for (auto& t : total) t = hn::Zero(d);
    const float* g = packed;
    for (int64_t k = 0; k < count; k += kColumns) {
      V acc[kColumns][kVectors];
#pragma GCC unroll 4
      for (auto& column : acc) {
#pragma GCC unroll 4
        for (auto& a : column) a = hn::Zero(d);
      }
      for (int64_t l = 0; l < k + kColumns; ++l, g += kColumns) {
        V e[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) e[v] = hn::LoadU(d, scratch + l * kLaneRows + r + v * lanes);
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) {
          const V factor = hn::Set(d, g[c]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) acc[c][v] = hn::MulAdd(factor, e[v], acc[c][v]);
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          total[v] = hn::MulAdd(acc[c][v], hn::LoadU(d, scratch + (k + c) * kLaneRows + r + v * lanes), total[v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::StoreU(total[v], d, loss + r + v * lanes);
  }
}

void diagonal_losses(const float* w, const float* diagonal, int64_t count, const float* scale, const float* zero,
                     float top, float* loss) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vt = hn::Set(d, top);
  for (int64_t r = 0; r < kLaneRows; r += lanes) {
    const V s = hn::LoadU(d, scale + r);
    const V z = hn::LoadU(d, zero + r);
    const V inverse = hn::Div(hn::Set(d, 1.0f), s);
    V sum = hn::Zero(d);
    for (int64_t k = 0; k < count; ++k) {
      const V x = hn::LoadU(d, w + k * kLaneRows + r);
      const V c = hn::Min(hn::Max(hn::Add(hn::Round(hn::Mul(x, inverse)), z), hn::Zero(d)), vt);
      const V e = hn::MulSub(hn::Sub(c, z), s, x);
      sum = hn::MulAdd(hn::Mul(e, hn::Set(d, diagonal[k])), e, sum);
    }
    hn::StoreU(sum, d, loss + r);
  }
}

// The number of independent chains, which hide the latency of the multiply-add.
constexpr int kChains = 4;

// x = column - sum over i < j of factors[i] earlier[i], kChains vectors of rows; column and earlier begin at the first
// row.
HWY_INLINE void column_less_earlier(const float* column, int64_t j, const float* factors, const float* earlier,
                                    V (&x)[kChains]) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
#pragma GCC unroll 4
  for (int v = 0; v < kChains; ++v) x[v] = hn::LoadU(d, column + v * lanes);
  for (int64_t i = 0; i < j; ++i) {
    const V factor = hn::Set(d, factors[i]);
#pragma GCC unroll 4
    for (int v = 0; v < kChains; ++v)
      x[v] = hn::NegMulAdd(factor, hn::LoadU(d, earlier + i * kLaneRows + v * lanes), x[v]);
  }
}

void gptq_block(const float* w, int64_t count, const float* u, const float* inverse_pivot, const float* const* scales,
                const float* const* zeros, float top, uint8_t* codes, float* err) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint8_t, D> db;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vt = hn::Set(d, top);
  for (int64_t r = 0; r < kLaneRows; r += kChains * lanes) {
    for (int64_t j = 0; j < count; ++j) {
      V x[kChains];
      column_less_earlier(w + j * kLaneRows + r, j, u + j * count, err + r, x);
      const V pivot = hn::Set(d, inverse_pivot[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v) {
        const int64_t at = r + v * lanes;
        const V s = hn::LoadU(d, scales[j] + at);
        const V z = hn::LoadU(d, zeros[j] + at);
        const V c = code_of(x[v], s, z, vt);
        hn::StoreU(hn::DemoteTo(db, hn::ConvertTo(di, c)), db, codes + j * kLaneRows + at);
        hn::StoreU(hn::Mul(hn::NegMulAdd(hn::Sub(c, z), s, x[v]), pivot), d, err + j * kLaneRows + at);
      }
    }
  }
}

void descend_block(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                   const float* const* scales, float top, float* codes, float* step) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vt = hn::Set(d, top);
  for (int64_t r = 0; r < kLaneRows; r += kChains * lanes) {
    for (int64_t j = 0; j < count; ++j) {
      V x[kChains];
      column_less_earlier(residual + j * kLaneRows + r, j, h + j * count, step + r, x);
      const V inverse = hn::Set(d, inverse_diagonal[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v) {
        const int64_t at = r + v * lanes;
        const V s = hn::LoadU(d, scales[j] + at);
        const V before = hn::LoadU(d, codes + j * kLaneRows + at);
        const V wanted = hn::Round(hn::Add(before, hn::Div(hn::Mul(x[v], inverse), s)));
        const V after = hn::Min(hn::Max(wanted, hn::Zero(d)), vt);
        hn::StoreU(after, d, codes + j * kLaneRows + at);
        hn::StoreU(hn::Mul(hn::Sub(after, before), s), d, step + j * kLaneRows + at);
      }
    }
  }
}

// The level nearest to x; its place is added up in `place`.
HWY_INLINE V nearest(V x, const LevelSteps& steps, V* place) {
  const D d;
  V level = hn::Set(d, steps.levels[0]);
  V passed = hn::Zero(d);
  const V one = hn::Set(d, 1.0f);
  for (int i = 0; i < 15; ++i) {
    const auto above = hn::Gt(x, hn::Set(d, steps.middles[i]));
    level = hn::IfThenElse(above, hn::Set(d, steps.levels[i + 1]), level);
    if (place != nullptr) passed = hn::Add(passed, hn::IfThenElseZero(above, one));
  }
  if (place != nullptr) *place = passed;
  return level;
}

void gptq_block_levels(const float* w, int64_t count, const float* u, const float* inverse_pivot,
                       const float* const* scales, const LevelSteps& steps, uint8_t* codes, float* err) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint8_t, D> db;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < kLaneRows; r += kChains * lanes) {
    for (int64_t j = 0; j < count; ++j) {
      V x[kChains];
      column_less_earlier(w + j * kLaneRows + r, j, u + j * count, err + r, x);
      const V pivot = hn::Set(d, inverse_pivot[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v) {
        const int64_t at = r + v * lanes;
        const V s = hn::LoadU(d, scales[j] + at);
        V place;
        const V level = nearest(hn::Div(x[v], s), steps, &place);
        hn::StoreU(hn::DemoteTo(db, hn::ConvertTo(di, place)), db, codes + j * kLaneRows + at);
        hn::StoreU(hn::Mul(hn::NegMulAdd(level, s, x[v]), pivot), d, err + j * kLaneRows + at);
      }
    }
  }
}

void descend_block_levels(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                          const float* const* scales, const LevelSteps& steps, float* levels, float* step) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < kLaneRows; r += kChains * lanes) {
    for (int64_t j = 0; j < count; ++j) {
      V x[kChains];
      column_less_earlier(residual + j * kLaneRows + r, j, h + j * count, step + r, x);
      const V inverse = hn::Set(d, inverse_diagonal[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v) {
        const int64_t at = r + v * lanes;
        const V s = hn::LoadU(d, scales[j] + at);
        const V before = hn::LoadU(d, levels + j * kLaneRows + at);
        const V after = nearest(hn::Add(before, hn::Div(hn::Mul(x[v], inverse), s)), steps, nullptr);
        hn::StoreU(after, d, levels + j * kLaneRows + at);
        hn::StoreU(hn::Mul(hn::Sub(after, before), s), d, step + j * kLaneRows + at);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace metal_marlin
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_marlin {

HWY_EXPORT(first_not_finite);
HWY_EXPORT(min_max);
HWY_EXPORT(round_span);
HWY_EXPORT(round_error_span);
HWY_EXPORT(quadratic_losses);
HWY_EXPORT(diagonal_losses);
HWY_EXPORT(gptq_block);
HWY_EXPORT(descend_block);
HWY_EXPORT(gptq_block_levels);
HWY_EXPORT(descend_block_levels);

int64_t first_not_finite(const float* values, int64_t count) noexcept {
  return HWY_DYNAMIC_DISPATCH(first_not_finite)(values, count);
}

void min_max(const float* values, int64_t count, float* min, float* max) noexcept {
  HWY_DYNAMIC_DISPATCH(min_max)(values, count, min, max);
}

void round_span(const float* w, int64_t count, float scale, float zero, float minimum, float top,
                uint8_t* codes) noexcept {
  HWY_DYNAMIC_DISPATCH(round_span)(w, count, scale, zero, minimum, top, codes);
}

void round_error_span(const float* w, const float* reference, const float* unscale, int64_t count, float scale,
                      float zero, float minimum, float top, float* error) noexcept {
  HWY_DYNAMIC_DISPATCH(round_error_span)(w, reference, unscale, count, scale, zero, minimum, top, error);
}

void quadratic_losses(const float* w, const float* packed, int64_t count, const float* scale, const float* zero,
                      float top, float* scratch, float* loss) noexcept {
  HWY_DYNAMIC_DISPATCH(quadratic_losses)(w, packed, count, scale, zero, top, scratch, loss);
}

void diagonal_losses(const float* w, const float* diagonal, int64_t count, const float* scale, const float* zero,
                     float top, float* loss) noexcept {
  HWY_DYNAMIC_DISPATCH(diagonal_losses)(w, diagonal, count, scale, zero, top, loss);
}

void gptq_block(const float* w, int64_t count, const float* u, const float* inverse_pivot, const float* const* scales,
                const float* const* zeros, float top, uint8_t* codes, float* err) noexcept {
  HWY_DYNAMIC_DISPATCH(gptq_block)(w, count, u, inverse_pivot, scales, zeros, top, codes, err);
}

void descend_block(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                   const float* const* scales, float top, float* codes, float* step) noexcept {
  HWY_DYNAMIC_DISPATCH(descend_block)(residual, count, h, inverse_diagonal, scales, top, codes, step);
}

void gptq_block_levels(const float* w, int64_t count, const float* u, const float* inverse_pivot,
                       const float* const* scales, const LevelSteps& steps, uint8_t* codes, float* err) noexcept {
  HWY_DYNAMIC_DISPATCH(gptq_block_levels)(w, count, u, inverse_pivot, scales, steps, codes, err);
}

void descend_block_levels(const float* residual, int64_t count, const float* h, const float* inverse_diagonal,
                          const float* const* scales, const LevelSteps& steps, float* levels, float* step) noexcept {
  HWY_DYNAMIC_DISPATCH(descend_block_levels)(residual, count, h, inverse_diagonal, scales, steps, levels, step);
}

void pack_quadratic(const float* gram, int64_t ldg, int64_t count, float* packed) noexcept {
  const int64_t padded = (count + 3) / 4 * 4;
  for (int64_t k = 0; k < padded; k += 4) {
    for (int64_t l = 0; l < k + 4; ++l) {
      for (int64_t c = k; c < k + 4; ++c) {
        const bool inside = l <= c && c < count;
        *packed++ = inside ? (l == c ? 1.0f : 2.0f) * gram[l * ldg + c] : 0.0f;
      }
    }
  }
}

}  // namespace metal_marlin
#endif
