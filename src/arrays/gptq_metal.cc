// HessianCollector and what GPTQMetal does with Hessians.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/mr_gptq.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "arrays/array_input.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"

namespace metal_marlin {
namespace {

struct Sum {
  Array hessian;  // float64 [K, K]
  int64_t tokens = 0;
};

std::string layer_text(const std::string& layer) {
  return layer.empty() ? "the unnamed layer" : fmt::format("layer \"{}\"", layer);
}

// [k, k] in float64, finite.
std::vector<double> load_square(const ArrayView& array, const char* name) {
  expect_float(array, name);
  expect_shape(array, name, {-1, -1}, "[K, K]");
  const int64_t k = array.shape[0];
  expect_shape(array, name, {k, k}, "[K, K]");
  const std::vector<int64_t> strides = strides_of(array);
  std::vector<double> out(static_cast<size_t>(k * k));
  for (int64_t r = 0; r < k; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const int64_t at = r * strides[0] + c * strides[1];
      double v = 0;
      switch (array.type) {
        case ElementType::kF16:
          v = f16_to_f32(static_cast<const uint16_t*>(array.data)[at]);
          break;
        case ElementType::kBF16:
          v = bf16_to_f32(static_cast<const uint16_t*>(array.data)[at]);
          break;
        case ElementType::kF64:
          v = static_cast<const double*>(array.data)[at];
          break;
        default:
          v = static_cast<const float*>(array.data)[at];
      }
      if (!std::isfinite(v))
        throw NumericError(fmt::format("{}: expected finite values, found {} at [{}, {}]", name, v, r, c));
      out[static_cast<size_t>(r * k + c)] = v;
    }
  }
  return out;
}

}  // namespace

struct HessianCollector::State {
  int64_t in_features = 0;
  std::map<std::string, Sum> layers;
  mutable std::mutex mutex;

  const Sum& find(const std::string& layer) const {
    const auto it = layers.find(layer);
    if (it != layers.end()) return it->second;
    throw ArgumentError("layer",
                        fmt::format("layer: expected one of the {} with activations, found {}; call accumulate first",
                                    counted(layers.size(), "layer"), layer_text(layer)));
  }
  void expect_width(int64_t k, const std::string& layer, const char* name) const {
    const auto it = layers.find(layer);
    const int64_t wanted = it != layers.end() ? it->second.hessian.shape[0] : in_features;
    if (wanted == 0 || k == wanted) return;
    throw ArgumentError(
        fmt::format("{}: expected in_features {} as {} has, found {}", name, wanted, layer_text(layer), k));
  }
};

HessianCollector::HessianCollector(int64_t in_features) : state_(std::make_unique<State>()) {
  if (in_features < 0)
    throw ArgumentError("in_features",
                        fmt::format("in_features: expected at least 1, or 0 for any, found {}", in_features));
  state_->in_features = in_features;
}
HessianCollector::HessianCollector(HessianCollector&&) noexcept = default;
HessianCollector& HessianCollector::operator=(HessianCollector&&) noexcept = default;
HessianCollector::~HessianCollector() = default;

void HessianCollector::accumulate(const ArrayView& x, const std::string& layer) try {
  const ThreadCount thread_count;
  const int64_t k = expect_activations(x, "x");
  {
    const std::lock_guard lock(state_->mutex);
    state_->expect_width(k, layer, "x");
  }
  Array batch = sum_of_products(x, 1.0, "x");
  const std::lock_guard lock(state_->mutex);
  state_->expect_width(k, layer, "x");  // another thread may have been first
  Sum& sum = state_->layers[layer];
  if (sum.hessian.shape.empty()) {
    sum.hessian = std::move(batch);
  } else {
    for (int64_t i = 0; i < batch.elements(); ++i) sum.hessian.as<double>()[i] += batch.as<double>()[i];
  }
  sum.tokens += token_count(x);
} catch (...) {
  rethrow_as_error("accumulate");
}

Array HessianCollector::get_hessian(double damp, const std::string& layer) const try {
  const ThreadCount thread_count;
  expect_damping(damp, "damp");
  const std::lock_guard lock(state_->mutex);
  const Sum& sum = state_->find(layer);
  Array out = sum.hessian;
  double* h = out.as<double>();
  const int64_t k = out.shape[0];
  const auto tokens = static_cast<double>(sum.tokens);
  double mean = 0;
  for (int64_t i = 0; i < k * k; ++i) h[i] /= tokens;
  for (int64_t i = 0; i < k; ++i) mean += h[i * k + i] / static_cast<double>(k);
  for (int64_t i = 0; i < k; ++i) h[i * k + i] += damp * mean;
  return out;
} catch (...) {
  rethrow_as_error("get_hessian");
}

Array HessianCollector::get_raw_hessian(const std::string& layer) const try {
  const ThreadCount thread_count;
  const std::lock_guard lock(state_->mutex);
  return state_->find(layer).hessian;
} catch (...) {
  rethrow_as_error("get_raw_hessian");
}

int64_t HessianCollector::n_samples(const std::string& layer) const try {
  const std::lock_guard lock(state_->mutex);
  const auto it = state_->layers.find(layer);
  return it == state_->layers.end() ? 0 : it->second.tokens;
} catch (...) {
  rethrow_as_error("n_samples");
}

std::vector<std::string> HessianCollector::layer_names() const try {
  const std::lock_guard lock(state_->mutex);
  std::vector<std::string> names;
  for (const auto& [name, sum] : state_->layers) names.push_back(name);
  return names;
} catch (...) {
  rethrow_as_error("layer_names");
}

void HessianCollector::merge(const HessianCollector& other) try {
  const ThreadCount thread_count;
  std::map<std::string, Sum> theirs;
  {
    const std::lock_guard lock(other.state_->mutex);
    theirs = other.state_->layers;
  }
  const std::lock_guard lock(state_->mutex);
  for (const auto& [name, sum] : theirs) state_->expect_width(sum.hessian.shape[0], name, "other");
  for (auto& [name, sum] : theirs) {
    Sum& ours = state_->layers[name];
    if (ours.hessian.shape.empty()) {
      ours = std::move(sum);
      continue;
    }
    for (int64_t i = 0; i < sum.hessian.elements(); ++i) ours.hessian.as<double>()[i] += sum.hessian.as<double>()[i];
    ours.tokens += sum.tokens;
  }
} catch (...) {
  rethrow_as_error("merge");
}

void HessianCollector::reset() {
  const std::lock_guard lock(state_->mutex);
  state_->layers.clear();
}

uint64_t HessianCollector::memory_bytes() const {
  const std::lock_guard lock(state_->mutex);
  uint64_t bytes = 0;
  for (const auto& [name, sum] : state_->layers) bytes += sum.hessian.bytes.size();
  return bytes;
}

Array GPTQMetal::compute_hessian(const ArrayView& activations, bool normalize) const try {
  const ThreadCount thread_count;
  return metal_marlin::compute_hessian(activations, normalize);
} catch (...) {
  rethrow_as_error("compute_hessian");
}

Array compute_hessian_metal(const ArrayView& activations, bool normalize) try {
  const ThreadCount thread_count;
  return compute_hessian(activations, normalize);
} catch (...) {
  rethrow_as_error("compute_hessian_metal");
}

Array GPTQMetal::cholesky_decompose(const ArrayView& H, double regularization) const try {
  const ThreadCount thread_count;
  if (!(regularization >= 0 && std::isfinite(regularization))) {
    throw ArgumentError("regularization",
                        fmt::format("regularization: expected a finite number >= 0, found {}", regularization));
  }
  const std::vector<double> h = load_square(H, "H");
  const int64_t k = H.shape[0];
  load_hessian(H, k, "H");  // symmetric
  Array out(ElementType::kF64, {k, k});
  double* l = out.as<double>();
  std::copy(h.begin(), h.end(), l);
  for (int64_t i = 0; i < k; ++i) l[i * k + i] += regularization;
  const int64_t failed = cholesky_lower(l, k);
  if (failed >= 0) {
    throw NumericError(fmt::format(
        "H: expected a matrix that is positive definite with {} added to its diagonal, found a pivot that is not "
        "positive at row {} of {}; raise regularization",
        regularization, failed, k));
  }
  for (int64_t r = 0; r < k; ++r) std::fill(l + r * k + r + 1, l + (r + 1) * k, 0.0);
  return out;
} catch (...) {
  rethrow_as_error("cholesky_decompose");
}

}  // namespace metal_marlin
