// Norm, rotary embedding, activations, sums and conversions for every instruction set. Rows that do not fill the last
// vector go through a padded copy on the stack, so that nothing beyond a row is touched.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h:
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace metal_marlin::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr size_t kMost = 64;  // lanes of any fixed-size target, and more

// y[i] = f(a[i], b[i]).
template <class F>
void Map(const float* a, const float* b, int64_t count, float* y, const F& f) {
  const D d;
  const auto n = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(f(d, hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, y + i);
  if (i == n) return;
  HWY_ALIGN float ta[kMost] = {};
  HWY_ALIGN float tb[kMost] = {};
  std::memcpy(ta, a + i, (n - i) * sizeof(float));
  std::memcpy(tb, b + i, (n - i) * sizeof(float));
  hn::Store(f(d, hn::Load(d, ta), hn::Load(d, tb)), d, ta);
  std::memcpy(y + i, ta, (n - i) * sizeof(float));
}

// 1 / (1 + exp(-x)). The exponent is bounded where float32 would overflow: the result there is below 2^-126.
HWY_INLINE V Sigmoid(D d, V x) {
  const V e = hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 88.0f)));
  return hn::Div(hn::Set(d, 1.0f), hn::Add(hn::Set(d, 1.0f), e));
}

struct Silu {
  HWY_INLINE V operator()(D d, V g, V u) const { return hn::Mul(hn::Mul(g, Sigmoid(d, g)), u); }
};
struct GeluTanh {
  // (1 + tanh(z)) / 2 = sigmoid(2 z), z = sqrt(2 / pi) (g + 0.044715 g^3).
  HWY_INLINE V operator()(D d, V g, V u) const {
    const V cubic = hn::MulAdd(hn::Mul(hn::Mul(g, g), g), hn::Set(d, 0.044715f), g);
    return hn::Mul(hn::Mul(g, Sigmoid(d, hn::Mul(cubic, hn::Set(d, 1.5957691216057308f)))), u);
  }
};
struct Relu {
  HWY_INLINE V operator()(D d, V g, V u) const { return hn::Mul(hn::Max(g, hn::Zero(d)), u); }
};
struct Plus {
  HWY_INLINE V operator()(D, V a, V b) const { return hn::Add(a, b); }
};
struct Times {
  float factor;
  HWY_INLINE V operator()(D d, V a, V) const { return hn::Mul(a, hn::Set(d, factor)); }
};
struct Cap {
  float cap;
  HWY_INLINE V operator()(D d, V a, V) const {
    return hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Div(a, hn::Set(d, cap))));
  }
};
struct NormScale {
  float factor;
  float offset;
  HWY_INLINE V operator()(D d, V x, V w) const {
    return hn::Mul(hn::Mul(x, hn::Set(d, factor)), hn::Add(hn::Set(d, offset), w));
  }
};

void SiluMul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  Map(gate, up, n, out, Silu());
}
void GeluTanhMul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  Map(gate, up, n, out, GeluTanh());
}
void ReluMul(const float* gate, const float* up, int64_t n, float* out) noexcept {
  Map(gate, up, n, out, Relu());
}
void AddTo(const float* x, int64_t n, float* y) noexcept {
  Map(y, x, n, y, Plus());
}
void Scale(float factor, int64_t n, float* y) noexcept {
  Map(y, y, n, y, Times{factor});
}
void SoftCap(float* x, float cap, int64_t n) noexcept {
  Map(x, x, n, x, Cap{cap});
}

void RmsNorm(const float* x, const float* weight, float offset, float eps, int64_t count, float* y) noexcept {
  const D d;
  const auto n = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  V s0 = hn::Zero(d);
  V s1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {  // two chains hide the latency of the addition
    const V a = hn::LoadU(d, x + i);
    const V b = hn::LoadU(d, x + i + lanes);
    s0 = hn::MulAdd(a, a, s0);
    s1 = hn::MulAdd(b, b, s1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  Map(x, weight, count, y, NormScale{factor, offset});
}

void Rope(float* x, const float* cos, const float* sin, int64_t count) noexcept {
  const D d;
  const auto half = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const V a = hn::LoadU(d, x + i);
    const V b = hn::LoadU(d, x + half + i);
    const V c = hn::LoadU(d, cos + i);
    const V s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, x + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

// Highway's emulation of both conversions for SSE4 treats infinity and ties differently; elsewhere it is the
// hardware's.
void F16ToF32(const uint16_t* x, int64_t count, float* y) noexcept {
  const auto n = static_cast<size_t>(count);
  size_t i = 0;
#if HWY_TARGET != HWY_SSE4
  const D d;
  const hn::Rebind<hwy::float16_t, D> d16;
  const size_t lanes = hn::Lanes(d);
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(x + i))), d, y + i);
  }
#endif
  for (; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

void F32ToF16(const float* x, int64_t count, uint16_t* y) noexcept {
  size_t i = 0;
  const auto n = static_cast<size_t>(count);
#if HWY_TARGET != HWY_SSE4
  const D d;
  const hn::Rebind<hwy::float16_t, D> d16;
  const size_t lanes = hn::Lanes(d);
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, x + i)), d16, reinterpret_cast<hwy::float16_t*>(y + i));
  }
#endif
  for (; i < n; ++i) y[i] = f32_to_f16(x[i]);
}

void Bf16ToF32(const uint16_t* x, int64_t count, float* y) noexcept {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> d16;
  const auto n = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto wide = hn::PromoteTo(du, hn::LoadU(d16, x + i));
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(wide)), d, y + i);
  }
  for (; i < n; ++i) y[i] = bf16_to_f32(x[i]);
}

// As f32_to_bf16 of core/half.h, in lanes. Demoting signed integers saturates, so the value is shifted into int16
// first.
void F32ToBf16(const float* x, int64_t count, uint16_t* y) noexcept {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<int16_t, D> d16;
  const auto n = static_cast<size_t>(count);
  const size_t lanes = hn::Lanes(d);
  const auto one = hn::Set(du, 1u);
  const auto half = hn::Set(du, 0x7fffu);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const V v = hn::LoadU(d, x + i);
    const auto u = hn::BitCast(du, v);
    const auto rounded = hn::Add(u, hn::Add(half, hn::And(hn::ShiftRight<16>(u), one)));
    const auto quiet = hn::Or(u, hn::Set(du, 0x400000u));
    const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
    const auto bits = hn::IfThenElse(is_nan, quiet, rounded);
    const auto top = hn::ShiftRight<16>(hn::BitCast(di, bits));
    hn::StoreU(hn::DemoteTo(d16, top), d16, reinterpret_cast<int16_t*>(y + i));
  }
  for (; i < n; ++i) y[i] = f32_to_bf16(x[i]);
}

}  // namespace

void FillElementwise(KernelTable& t) noexcept {
  t.rms_norm = RmsNorm;
  t.rope = Rope;
  t.softcap = SoftCap;
  t.silu_mul = SiluMul;
  t.gelu_tanh_mul = GeluTanhMul;  // gelu_mul stays the reference: float32 has no vector erf here
  t.relu_mul = ReluMul;
  t.add = AddTo;
  t.scale = Scale;
  t.f16_to_f32 = F16ToF32;
  t.f32_to_f16 = F32ToF16;
  t.bf16_to_f32 = Bf16ToF32;
  t.f32_to_bf16 = F32ToBf16;
}

}  // namespace metal_marlin::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_marlin::internal {
bool fill_elementwise(Isa isa, KernelTable& table) noexcept {
  MM_FILL(FillElementwise)
}
}  // namespace metal_marlin::internal
#endif
