#include "kernels/gemm.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>

#include "core/machine.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/one_thread.h"

namespace metal_marlin {
namespace {

using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;
using Dim = dnnl::memory::dim;

const dnnl::engine& engine() {
  static const dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

Type dnnl_type(MatmulPrecision type) {
  return type == MatmulPrecision::kBF16 ? Type::bf16 : Type::f32;
}

dnnl::matmul::primitive_desc describe(const dnnl::memory::desc& source, const dnnl::memory::desc& weights,
                                      const dnnl::memory::desc& target, const dnnl::post_ops& then = {}) {
  dnnl::primitive_attr attr;
  attr.set_post_ops(then);
  // The library's own scratch memory belongs to the thread that made the primitive; ours to the one that runs it.
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine(), source, weights, target, attr);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(source, weights, target), attr, engine());
#endif
}

dnnl::matmul::primitive_desc describe(Dim m, Dim n, Dim k, MatmulPrecision type, const dnnl::memory::desc& weights) {
  return describe({{m, k}, dnnl_type(type), Tag::ab}, weights, {{m, n}, Type::f32, Tag::ab});
}

struct Product {
  dnnl::matmul primitive;
  dnnl::memory::desc source;
  dnnl::memory::desc weights;
  dnnl::memory::desc target;
  dnnl::memory::desc scratchpad;
};

constexpr Dim kLayoutRows = 128;  // the number of rows for which oneDNN chooses the layout of packed weights

// All products made so far: one takes about 0.2 ms to make and some 20 KiB to keep.
const Product& product(Dim m, Dim n, Dim k, MatmulPrecision type, bool packed) {
  using Key = std::tuple<Dim, Dim, Dim, MatmulPrecision, bool>;
  static std::map<Key, Product> products;
  static std::mutex mutex;
  thread_local std::map<Key, const Product*> mine;
  const Key key{m, n, k, type, packed};
  if (const auto found = mine.find(key); found != mine.end()) return *found->second;
  const std::lock_guard lock(mutex);
  auto found = products.find(key);
  if (found == products.end()) {
    const OneThread one;
    dnnl::memory::desc weights({k, n}, dnnl_type(type), packed ? Tag::any : Tag::ba);
    if (packed) weights = describe(kLayoutRows, n, k, type, weights).weights_desc();
    const auto pd = describe(m, n, k, type, weights);
    found = products
                .emplace(key, Product{dnnl::matmul(pd), pd.src_desc(), pd.weights_desc(), pd.dst_desc(),
                                      pd.scratchpad_desc()})
                .first;
  }
  mine.emplace(key, &found->second);
  return found->second;
}

// The same for C += A^T B with rows of these strides, in bf16.
const Product& transposed_product(Dim m, Dim n, Dim k, Dim lda, Dim ldb, Dim ldc) {
  using Key = std::array<Dim, 6>;
  static std::map<Key, Product> products;
  static std::mutex mutex;
  const Key key{m, n, k, lda, ldb, ldc};
  const std::lock_guard lock(mutex);
  auto found = products.find(key);
  if (found == products.end()) {
    const OneThread one;
    const dnnl::memory::desc source({m, k}, Type::bf16, dnnl::memory::dims{1, lda});
    const dnnl::memory::desc weights({k, n}, Type::bf16, dnnl::memory::dims{ldb, 1});
    const dnnl::memory::desc target({m, n}, Type::f32, dnnl::memory::dims{ldc, 1});
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    const auto pd = describe(source, weights, target, sum);
    found = products
                .emplace(key, Product{dnnl::matmul(pd), pd.src_desc(), pd.weights_desc(), pd.dst_desc(),
                                      pd.scratchpad_desc()})
                .first;
  }
  return found->second;
}

void run(const Product& p, const void* x, const void* weight, float* out) {
  const OneThread one;
  const auto scratch = static_cast<int64_t>(p.scratchpad.get_size());
  auto& s = stream();
  p.primitive.execute(s, {{DNNL_ARG_SRC, {p.source, engine(), const_cast<void*>(x)}},
                          {DNNL_ARG_WEIGHTS, {p.weights, engine(), const_cast<void*>(weight)}},
                          {DNNL_ARG_DST, {p.target, engine(), out}},
                          {DNNL_ARG_SCRATCHPAD, {p.scratchpad, engine(), thread_scratch(0, scratch / 4 + 1)}}});
  s.wait();
}

template <class F>
auto guarded(const char* what, F f) {
  try {
    return f();
  } catch (const dnnl::error& e) {
    throw SystemError(fmt::format("oneDNN cannot {}: {} (status {})", what, e.what(), static_cast<int>(e.status)));
  }
}

void store_rows(const float* from, int64_t rows, int64_t width, const float* bias, float* y, int64_t ldy) {
  for (int64_t r = 0; r < rows; ++r) {
    float* to = y + r * ldy;
    std::memcpy(to, from + r * width, static_cast<size_t>(width) * sizeof(float));
    if (bias != nullptr) kernels().add(bias, width, to);
  }
}

void linear_panel(const PackedWeight& w, int64_t panel, const void* x, int64_t rows, const float* bias, float* y,
                  int64_t ldy) {
  const int64_t begin = w.panel_begin(panel);
  const int64_t width = w.panel_width(panel);
  if (width == ldy) {
    w.multiply(panel, x, rows, y);
    for (int64_t r = 0; bias != nullptr && r < rows; ++r) kernels().add(bias, width, y + r * ldy);
    return;
  }
  float* out = thread_scratch(2, rows * width);
  w.multiply(panel, x, rows, out);
  store_rows(out, rows, width, bias == nullptr ? nullptr : bias + begin, y + begin, ldy);
}

}  // namespace

float* thread_scratch(int slot, int64_t count) {
  thread_local std::array<Buffer, 8> buffers;
  Buffer& b = buffers[static_cast<size_t>(slot)];
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  if (b.size() < bytes) {
    b = Buffer();  // given back first: the old and the new one are never held at once
    b = Buffer((bytes + 4095) / 4096 * 4096);
  }
  return reinterpret_cast<float*>(b.data());
}

bool has_bf16_gemm() {
#if DNNL_VERSION_MAJOR >= 3
  static const bool has = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16;
#else
  static const bool has =
      static_cast<int>(dnnl::get_effective_cpu_isa()) >= static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
#endif
  return has;
}

bool prefers_bf16_gemm() {
  if (!has_bf16_gemm()) return false;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_is("intel"))
    return static_cast<int>(dnnl::get_effective_cpu_isa()) >= static_cast<int>(dnnl::cpu_isa::avx512_core_amx);
#endif
  return true;
}

std::string gemm_isa_name() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      break;
  }
  return has_bf16_gemm() ? "avx512_core_bf16 or later" : "unknown";
}

PackedWeight::PackedWeight(const float* weight, int64_t out_features, int64_t in_features, MatmulPrecision type)
    : type_(type == MatmulPrecision::kBF16 && has_bf16_gemm() ? type : MatmulPrecision::kF32),
      out_features_(out_features),
      in_features_(in_features) {
  choose_panels();
  data_.resize(static_cast<size_t>(panels()));
  parallel_for(panels(), [&](int64_t i) {
    guarded("pack a weight", [&] {
      const int64_t n = panel_width(i);
      const auto& p = product(kLayoutRows, n, in_features_, type_, true);
      const OneThread one;
      const dnnl::memory::desc stored({in_features_, n}, Type::f32, Tag::ba);
      Buffer packed(p.weights.get_size());
      auto* from = const_cast<float*>(weight) + panel_begin(i) * in_features_;
      dnnl::memory source(stored, engine(), from);
      dnnl::memory target(p.weights, engine(), packed.data());
      dnnl::reorder(source, target).execute(stream(), source, target);
      stream().wait();
      data_[static_cast<size_t>(i)] = std::move(packed);
    });
  });
}

PackedWeight PackedWeight::view(const float* weight, int64_t out_features, int64_t in_features) {
  PackedWeight w;
  w.out_features_ = out_features;
  w.in_features_ = in_features;
  w.view_ = weight;
  w.choose_panels();
  return w;
}

void PackedWeight::choose_panels() {
  if (out_features_ <= 0 || in_features_ <= 0) {
    throw ArgumentError(
        fmt::format("PackedWeight: expected a shape of positive sizes, found [{}, {}]", out_features_, in_features_));
  }
  // Equal panels, each a multiple of 64 (oneDNN's widest block) but the last.
  const int64_t count = (out_features_ + kPanel - 1) / kPanel;
  width_ = std::min(out_features_, ((out_features_ + count - 1) / count + 63) / 64 * 64);
}

int64_t PackedWeight::panel_width(int64_t panel) const noexcept {
  return std::min(width_, out_features_ - panel_begin(panel));
}

uint64_t PackedWeight::bytes() const noexcept {
  uint64_t n = 0;
  for (const auto& b : data_) n += b.size();
  return n;
}

void PackedWeight::multiply(int64_t panel, const void* x, int64_t rows, float* out) const {
  if (rows <= 0) return;
  if (view_ != nullptr) {
    multiply_stored(type_, view_ + panel_begin(panel) * in_features_, panel_width(panel), in_features_, x, rows, out);
    return;
  }
  guarded("multiply", [&] {
    run(product(rows, panel_width(panel), in_features_, type_, true), x, data_[static_cast<size_t>(panel)].data(), out);
  });
}

const void* gemm_input(MatmulPrecision type, const float* x, int64_t count) {
  if (type == MatmulPrecision::kF32) return x;
  auto* out = reinterpret_cast<uint16_t*>(thread_scratch(1, (count + 1) / 2));
  kernels().f32_to_bf16(x, count, out);
  return out;
}

void linear_rows(const PackedWeight& weight, const float* x, int64_t rows, const float* bias, float* y, int64_t ldy) {
  const void* input = gemm_input(weight.type(), x, rows * weight.in_features());
  for (int64_t p = 0; p < weight.panels(); ++p) linear_panel(weight, p, input, rows, bias, y, ldy);
}

void linear_panels(const PackedWeight& weight, const float* x, int64_t rows, const float* bias, float* y, int64_t ldy) {
  const void* input = gemm_input(weight.type(), x, rows * weight.in_features());
  parallel_for(weight.panels(), [&](int64_t p) { linear_panel(weight, p, input, rows, bias, y, ldy); });
}

void multiply_stored(MatmulPrecision type, const void* weight, int64_t count, int64_t in_features, const void* x,
                     int64_t rows, float* out) {
  if (rows <= 0 || count <= 0) return;
  guarded("multiply", [&] { run(product(rows, count, in_features, type, false), x, weight, out); });
}

void add_transposed_product(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, int64_t m, int64_t n,
                            int64_t k, float* c, int64_t ldc) {
  if (m <= 0 || n <= 0 || k <= 0) return;
  guarded("multiply", [&] { run(transposed_product(m, n, k, lda, ldb, ldc), a, b, c); });
}

double gemm_rate(MatmulPrecision type) {
  constexpr int64_t kRows = 128;
  constexpr int64_t kOut = 256;
  constexpr int64_t kIn = 512;
  Matrix w(kOut, kIn);
  Matrix x(kRows, kIn);
  Matrix y(kRows, kOut);
  for (auto& v : w.values()) v = 0.5f;
  for (auto& v : x.values()) v = 0.25f;
  const PackedWeight packed(w.data(), kOut, kIn, type);
  const void* input = gemm_input(packed.type(), x.data(), x.size());
  // The thread's own time: a busy machine must not make the roof look lower.
  const auto thread_seconds = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double best = 0;
  const double start = wall_seconds();
  do {
    constexpr int kRepeat = 16;
    const double begin = thread_seconds();
    for (int i = 0; i < kRepeat; ++i) packed.multiply(0, input, kRows, y.data());
    const double seconds = thread_seconds() - begin;
    best = std::max(best, 2e-9 * kRepeat * kRows * kOut * kIn / seconds);
  } while (wall_seconds() - start < 0.15);
  return best;
}

}  // namespace metal_marlin
