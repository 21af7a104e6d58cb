// Plain float64 references and seeded inputs for the tests of quantize and scale.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/tensor.h"
#include "core/threads.h"
#include "core/values.h"

namespace metal_marlin::reference {

inline Matrix normal_matrix(int64_t rows, int64_t cols, uint64_t seed, double deviation = 1.0) {
  Random random(seed);
  Matrix m(rows, cols);
  for (float& v : m.values()) v = static_cast<float>(deviation * random.normal());
  return m;
}

// Inputs as those of a language model: channels of very different size, correlated through a few common directions.
inline Matrix activations(int64_t tokens, int64_t features, uint64_t seed) {
  Random random(seed);
  std::vector<double> size(static_cast<size_t>(features));
  for (double& s : size) s = std::exp(1.2 * random.normal());
  constexpr int64_t kCommon = 4;
  const Matrix mix = normal_matrix(kCommon, features, seed + 1);
  Matrix x(tokens, features);
  for (int64_t t = 0; t < tokens; ++t) {
    double common[kCommon];
    for (double& c : common) c = random.normal();
    for (int64_t k = 0; k < features; ++k) {
      double value = random.normal();
      for (int64_t c = 0; c < kCommon; ++c) value += 0.7 * common[c] * mix(c, k);
      x(t, k) = static_cast<float>(value * size[static_cast<size_t>(k)]);
    }
  }
  return x;
}

// Mean of x x^T, products in float64.
inline Matrix gram_of(const Matrix& x) {
  const int64_t k = x.cols();
  std::vector<double> sums(static_cast<size_t>(k * k));
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) sums[static_cast<size_t>(i * k + j)] += static_cast<double>(x(t, i)) * x(t, j);
    }
  }
  Matrix gram(k, k);
  for (size_t i = 0; i < sums.size(); ++i)
    gram.values()[i] = static_cast<float>(sums[i] / static_cast<double>(x.rows()));
  return gram;
}

// sum over k, l of e_k G_kl e_l for k, l in [first, first + e.size()).
inline double quadratic(const std::vector<double>& e, const Matrix& gram, int64_t first) {
  double sum = 0;
  for (size_t k = 0; k < e.size(); ++k) {
    for (size_t l = 0; l < e.size(); ++l) {
      sum += e[k] * gram(first + static_cast<int64_t>(k), first + static_cast<int64_t>(l)) * e[l];
    }
  }
  return sum;
}

inline int code_of(double w, double scale, int zero, int top) {
  return static_cast<int>(std::clamp(std::nearbyint(w / scale) + zero, 0.0, static_cast<double>(top)));
}

// Errors of weights rounded with one range.
inline std::vector<double> rounding_errors(const float* w, int64_t count, double scale, int zero, int top) {
  std::vector<double> e;
  for (int64_t k = 0; k < count; ++k) e.push_back((code_of(w[k], scale, zero, top) - zero) * scale - w[k]);
  return e;
}

// Runs compute() with 1, 2 and 5 threads; true when the bytes of the three results are equal.
template <typename Fn>
bool same_bytes_for_threads(const Fn& compute) {
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const auto one = compute();
  bool same = true;
  for (const int n : {2, 5}) {
    thread_count.emplace(n);
    const auto other = compute();
    same =
        same && one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(one[0])) == 0;
  }
  thread_count.reset();
  return same;
}

}  // namespace metal_marlin::reference
