// The kernels of every instruction set of this machine against the plain loops: products with codes bit for bit, the
// float kernels bit for bit where one operation rounds once, else within the rounding of their sums. Shape, group size,
// bits, zeros and values are the input's.
#include <fuzzer/FuzzedDataProvider.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "core/random.h"
#include "fuzz_input.h"
#include "kernels/codes/kernels.h"
#include "kernels/dispatch.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin {
namespace {

using fuzz::require;

// Finite values over some orders of magnitude; now and then zeros, runs of equal ones, and the ends of the range.
std::vector<float> values(FuzzedDataProvider& input, int64_t count) {
  Random random(input.ConsumeIntegral<uint32_t>());
  const auto spread = static_cast<uint64_t>(input.ConsumeIntegralInRange(1, 12));
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = std::ldexp(static_cast<float>(random.uniform() - 0.5), static_cast<int>(random.below(spread)));
  const int kind = input.ConsumeIntegralInRange(0, 7);
  if (kind == 0) std::fill(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), 0.0f);
  if (kind == 1) std::fill(v.begin(), v.end(), input.ConsumeBool() ? 127.0f : -127.0f);
  if (kind == 2 && !v.empty()) v[random.below(v.size())] = 3e38f;
  if (kind == 3)
    for (float& x : v) x *= 1e-38f;
  return v;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

QuantizedTensor make_weight(FuzzedDataProvider& input) {
  QuantizedTensor q;
  q.out_features = input.ConsumeIntegralInRange<int64_t>(1, 50);
  q.in_features = input.ConsumeIntegralInRange<int64_t>(1, 300);
  q.group_size = input.ConsumeIntegralInRange<int64_t>(1, q.in_features);
  if (input.ConsumeBool())
    q.group_size = std::min<int64_t>(q.in_features, int64_t{8} << input.ConsumeIntegralInRange(0, 4));
  q.bits = input.ConsumeIntegralInRange(1, 8);
  const int kind = input.ConsumeIntegralInRange(0, 2);  // of the zeros: one for all, free, none beside minima
  q.symmetric = kind == 0;
  q.scale_type = input.ConsumeBool() ? ScaleType::kBF16 : ScaleType::kF16;
  Random random(input.ConsumeIntegral<uint32_t>());
  const auto levels = uint64_t{1} << q.bits;
  const bool full = input.ConsumeIntegralInRange(0, 7) == 0;  // all codes at their end
  for (int64_t i = 0; i < q.out_features * q.in_features; ++i)
    q.codes.push_back(static_cast<uint8_t>(full ? levels - 1 : random.below(levels)));
  for (int64_t i = 0; i < q.out_features * q.groups(); ++i) {
    q.scales.push_back(encode_scale(static_cast<float>(random.uniform() * 0.1 - 0.05), q.scale_type));
    q.zeros.push_back(static_cast<uint8_t>(kind == 0 ? levels / 2 : kind == 1 ? random.below(levels) : 0));
    if (kind == 2) q.minima.push_back(encode_scale(static_cast<float>(random.uniform() - 0.5), q.scale_type));
  }
  if (input.ConsumeIntegralInRange(0, 3) == 0) {  // act order
    for (int64_t k = 0; k < q.in_features; ++k) q.group_index.push_back(static_cast<int32_t>(k / q.group_size));
    for (size_t k = q.group_index.size(); k > 1; --k) std::swap(q.group_index[k - 1], q.group_index[random.below(k)]);
  }
  return q;
}

void compare_codes(FuzzedDataProvider& input) {
  const QuantizedTensor q = make_weight(input);
  try {
    validate(q, "fuzz");
  } catch (const Error&) {
    require(false, "the weight is one that validate() passes");
  }
  const WeightMatrix weight = WeightMatrix::of_codes(q);
  const int64_t rows = input.ConsumeIntegralInRange<int64_t>(1, 40);
  const auto x = values(input, rows * q.in_features);
  WeightInput prepared;
  prepared.assign(weight, x.data(), rows, false);
  const int64_t tiles = (q.out_features + kTileOutputs - 1) / kTileOutputs;
  std::vector<float> want;
  for (const CodeKernels& isa : supported_code_kernels()) {
    // Exactly as long as it must be.
    std::vector<float> y(static_cast<size_t>(rows * q.out_features));
    isa.multiply_codes(weight.tiles(), 0, tiles, prepared.rounded(), rows, y.data(), q.out_features);
    if (want.empty()) want = y;
    require(same(y, want), "products with codes have the same bits on every instruction set");
  }
}

void compare_rounding(FuzzedDataProvider& input) {
  const int64_t length = 8 * input.ConsumeIntegralInRange<int64_t>(1, 16);
  const int64_t segments = input.ConsumeIntegralInRange<int64_t>(1, 9);
  auto x = values(input, segments * length);
  for (int i = input.ConsumeIntegralInRange(0, 3); i > 0; --i) {
    const uint32_t bits = input.ConsumeIntegral<uint32_t>();  // any float, Inf and NaN too
    std::memcpy(&x[input.ConsumeIntegralInRange<size_t>(0, x.size() - 1)], &bits, sizeof bits);
  }
  std::vector<int8_t> want_codes;
  std::vector<float> want_scales;
  std::vector<int32_t> want_sums;
  for (const CodeKernels& isa : supported_code_kernels()) {
    std::vector<int8_t> codes(x.size());
    std::vector<float> scales(static_cast<size_t>(segments));
    std::vector<int32_t> sums(static_cast<size_t>(segments));
    isa.round_segments(x.data(), segments, length, codes.data(), scales.data(), sums.data());
    for (float& s : scales)
      if (std::isnan(s)) s = -1;  // a NaN has many bit patterns
    if (want_codes.empty()) {
      want_codes = codes;
      want_scales = scales;
      want_sums = sums;
    }
    require(codes == want_codes && sums == want_sums && same(scales, want_scales),
            "activations are rounded alike on every instruction set");
  }
}

// Whether each a[i] and b[i] differ by at most bound[i].
bool near(const std::vector<float>& a, const std::vector<float>& b, const std::vector<double>& bound) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!(std::fabs(static_cast<double>(a[i]) - b[i]) <= bound[i])) return false;
  return true;
}

void compare_floats(FuzzedDataProvider& input) {
  const KernelTable& plain = *kernels(Isa::kScalar);
  const int64_t n = input.ConsumeIntegralInRange<int64_t>(1, 300);
  const int64_t count = input.ConsumeIntegralInRange<int64_t>(1, 9);
  const auto size = static_cast<size_t>(n);
  Random random(input.ConsumeIntegral<uint32_t>());
  std::vector<float> x(size), rows(size * static_cast<size_t>(count)), p(static_cast<size_t>(count));
  for (float& v : x) v = static_cast<float>(random.uniform() * 20 - 10);
  for (float& v : rows) v = static_cast<float>(random.uniform() * 4 - 2);
  for (float& v : p) v = static_cast<float>(random.uniform() * 4 - 2);
  std::vector<uint16_t> halves(size);
  for (uint16_t& h : halves) h = static_cast<uint16_t>(random.next());
  // An error of half a unit in the last place for each of n products and sums, in either of the two orders.
  const double unit = static_cast<double>(n + count + 2) * 0x1p-23;
  std::vector<double> dot_bound(p.size()), sum_bound(size), norm_bound(size), activation_bound(size);
  for (size_t r = 0; r < p.size(); ++r)
    for (size_t i = 0; i < size; ++i) {
      dot_bound[r] += unit * std::fabs(static_cast<double>(x[i]) * rows[r * size + i]);
      sum_bound[i] += unit * (1 + std::fabs(static_cast<double>(p[r]) * rows[r * size + i]));
    }
  for (size_t i = 0; i < size; ++i) {
    norm_bound[i] = 4e-6 * (1 + std::fabs(static_cast<double>(x[i]) * rows[i]) * std::sqrt(static_cast<double>(n)));
    activation_bound[i] = 4e-6 * (1 + std::fabs(static_cast<double>(x[i]) * rows[i]));
  }
  const auto results = [&](const KernelTable& t) {
    struct {
      std::vector<float> exact, dots, sums, norm, activations;
      std::vector<uint16_t> halves;
      int64_t argmax;
    } out;
    out.exact.resize(size);
    t.bf16_to_f32(halves.data(), n, out.exact.data());
    for (float& v : out.exact)
      if (std::isnan(v)) v = 0;
    std::vector<float> y(size);
    t.f16_to_f32(halves.data(), n, y.data());
    for (float& v : y)
      if (std::isnan(v)) v = 0;
    t.scale(p[0], n, y.data());
    t.add(x.data(), n, y.data());
    out.exact.insert(out.exact.end(), y.begin(), y.end());
    t.relu_mul(x.data(), rows.data(), n, y.data());
    out.exact.insert(out.exact.end(), y.begin(), y.end());
    out.halves.resize(2 * size);
    t.f32_to_f16(x.data(), n, out.halves.data());
    t.f32_to_bf16(x.data(), n, out.halves.data() + n);
    out.dots.resize(p.size());
    t.dot_rows(x.data(), rows.data(), n, count, n, out.dots.data());
    out.sums.assign(size, 0.5f);
    t.add_weighted_rows(p.data(), rows.data(), n, count, n, out.sums.data());
    out.norm.resize(size);
    t.rms_norm(x.data(), rows.data(), 0.0f, 1e-5f, n, out.norm.data());
    out.activations.resize(size);
    (n % 2 == 0 ? t.silu_mul : t.gelu_tanh_mul)(x.data(), rows.data(), n, out.activations.data());
    t.log_sum_exp(x.data(), n, &out.argmax);
    return out;
  };
  const auto want = results(plain);
  for (const Isa isa : supported_isas()) {
    const auto got = results(*kernels(isa));
    require(same(got.exact, want.exact) && got.halves == want.halves && got.argmax == want.argmax,
            "conversions, sums of two and the largest logit are the same on every instruction set");
    require(near(got.dots, want.dots, dot_bound), "dot products differ by rounding alone");
    require(near(got.sums, want.sums, sum_bound), "weighted sums of rows differ by rounding alone");
    require(near(got.norm, want.norm, norm_bound), "norms differ by rounding alone");
    require(near(got.activations, want.activations, activation_bound), "activations differ by rounding alone");
  }
}

}  // namespace
}  // namespace metal_marlin

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace metal_marlin;
  FuzzedDataProvider input(data, size);
  switch (input.ConsumeIntegralInRange(0, 3)) {
    case 0:
      compare_rounding(input);
      break;
    case 1:
      compare_floats(input);
      break;
    default:
      compare_codes(input);
  }
  return 0;
}
