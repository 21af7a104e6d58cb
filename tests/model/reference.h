// A transformer block in float64 with plain loops, written from the formulas, and random small models for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/block.h"
#include "model/rope.h"

namespace metal_marlin::testing {

using Rows = std::vector<std::vector<double>>;

struct TestModel {
  std::string name;
  Family family;
  ModelConfig config;
  Block block;
};

inline Matrix random_matrix(int64_t rows, int64_t cols, uint64_t stream, double scale) {
  Random random(20240607, stream);
  Matrix m(rows, cols);
  for (auto& v : m.values()) v = static_cast<float>(random.normal() * scale);
  return m;
}

inline std::vector<float> random_vector(int64_t n, uint64_t stream, double mean, double scale) {
  const Matrix m = random_matrix(1, n, stream, scale);
  std::vector<float> v(m.values().begin(), m.values().end());
  for (auto& x : v) x += static_cast<float>(mean);
  return v;
}

inline ModelConfig base_config() {
  ModelConfig c;
  c.hidden_size = 40;
  c.intermediate_size = 72;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-5;
  c.query_scale = 0.25;
  c.sliding_window = {0, 0};
  c.layer_uses_local_rope = {false, false};
  return c;
}

inline void fill_block(TestModel& m, bool bias, bool qk_norm, bool post_norm) {
  const auto& c = m.config;
  const int64_t q = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const int64_t shapes[kLinears][2] = {{q, c.hidden_size},
                                       {kv, c.hidden_size},
                                       {kv, c.hidden_size},
                                       {c.hidden_size, q},
                                       {c.intermediate_size, c.hidden_size},
                                       {c.intermediate_size, c.hidden_size},
                                       {c.hidden_size, c.intermediate_size}};
  for (int i = 0; i < kLinears; ++i) {
    auto& l = m.block.linear(static_cast<LinearKind>(i));
    const auto stream = static_cast<uint64_t>(i);
    l.weight = random_matrix(shapes[i][0], shapes[i][1], stream, 1.2 / std::sqrt(static_cast<double>(shapes[i][1])));
    if (bias) l.bias = random_vector(shapes[i][0], 100 + stream, 0, 0.3);
  }
  const double mean = m.family.offset_norm ? 0.0 : 1.0;
  m.block.norm(NormKind::kInput) = random_vector(c.hidden_size, 200, mean, 0.2);
  m.block.norm(NormKind::kPreFeedForward) = random_vector(c.hidden_size, 201, mean, 0.2);
  if (qk_norm) {
    m.block.norm(NormKind::kQ) = random_vector(c.head_dim, 202, mean + 1, 0.2);
    m.block.norm(NormKind::kK) = random_vector(c.head_dim, 203, mean + 1, 0.2);
  }
  if (post_norm) {
    m.block.norm(NormKind::kPostAttention) = random_vector(c.hidden_size, 204, mean, 0.2);
    m.block.norm(NormKind::kPostFeedForward) = random_vector(c.hidden_size, 205, mean, 0.2);
  }
}

// Each difference between the families at least once.
inline std::vector<TestModel> test_models() {
  std::vector<TestModel> models;
  const auto add = [&](const std::string& name, bool bias, bool qk_norm, bool post_norm, bool offset,
                       const std::function<void(ModelConfig&)>& change) {
    TestModel m;
    m.name = name;
    m.config = base_config();
    m.family.offset_norm = offset;
    change(m.config);
    fill_block(m, bias, qk_norm, post_norm);
    models.push_back(std::move(m));
  };
  add("plain", false, false, false, false, [](ModelConfig&) {});
  add("bias_gelu_one_kv_head", true, false, false, false, [](ModelConfig& c) {
    c.activation = Activation::kGelu;
    c.num_key_value_heads = 1;
  });
  add("qk_norm_wide_heads", false, true, false, false, [](ModelConfig& c) {
    c.head_dim = 80;
    c.query_scale = 1 / std::sqrt(80.0);
  });
  add("window_softcap_post_norm_offset", false, true, true, true, [](ModelConfig& c) {
    c.sliding_window = {9, 9};
    c.attention_logit_softcapping = 3.0;
    c.activation = Activation::kGeluTanh;
    c.head_dim = 24;
  });
  add("partial_rotary_relu_odd_head", false, false, false, false, [](ModelConfig& c) {
    c.rope.partial_rotary_factor = 0.5;
    c.activation = Activation::kRelu;
    c.head_dim = 20;
    c.num_key_value_heads = 6;
  });
  add("dynamic_rope", false, false, false, false, [](ModelConfig& c) {
    c.rope.type = RopeType::kDynamic;
    c.rope.factor = 2.0;
  });
  return models;
}

inline std::vector<double> norm_row(const std::vector<double>& x, const std::vector<float>& w, const TestModel& m) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  const double factor = 1 / std::sqrt(sum / static_cast<double>(x.size()) + m.config.rms_norm_eps);
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor * (w[i] + (m.family.offset_norm ? 1.0 : 0.0));
  return y;
}

inline std::vector<double> linear_row(const std::vector<double>& x, const Linear& l) {
  std::vector<double> y(static_cast<size_t>(l.weight.rows()));
  for (size_t n = 0; n < y.size(); ++n) {
    y[n] = l.bias.empty() ? 0.0 : l.bias[n];
    for (size_t k = 0; k < x.size(); ++k) {
      y[n] += x[k] * l.weight(static_cast<int64_t>(n), static_cast<int64_t>(k));
    }
  }
  return y;
}

inline double activate(double g, Activation a) {
  switch (a) {
    case Activation::kSilu:
      return g / (1 + std::exp(-g));
    case Activation::kGelu:
      return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    case Activation::kRelu:
      return g > 0 ? g : 0;
  }
  return 0;
}

struct ReferenceOutput {
  Rows states;
  std::array<Rows, kLinearInputs> inputs;
};

// One sequence from position 0.
inline ReferenceOutput reference_forward(const TestModel& m, int64_t layer, const Rows& states) {
  const auto& c = m.config;
  const auto& b = m.block;
  const auto d = static_cast<size_t>(c.head_dim);
  const auto f = rope_frequencies(c.rope, c.head_dim, c.max_position_embeddings, static_cast<int64_t>(states.size()));
  const auto turn = [&](double* x, size_t position) {
    const size_t half = f.inverse.size();
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * f.inverse[i];
      const double re = x[i];
      const double im = x[half + i];
      x[i] = f.attention_factor * (re * std::cos(angle) - im * std::sin(angle));
      x[half + i] = f.attention_factor * (im * std::cos(angle) + re * std::sin(angle));
    }
  };
  const auto heads = [&](std::vector<double>& row, const std::vector<float>& norm, size_t position) {
    for (size_t h = 0; h * d < row.size(); ++h) {
      if (!norm.empty()) {
        const std::vector<double> part(row.begin() + static_cast<int64_t>(h * d),
                                       row.begin() + static_cast<int64_t>((h + 1) * d));
        const auto y = norm_row(part, norm, m);
        std::copy(y.begin(), y.end(), row.begin() + static_cast<int64_t>(h * d));
      }
      turn(row.data() + h * d, position);
    }
  };
  ReferenceOutput out;
  Rows q, k, v;
  for (size_t t = 0; t < states.size(); ++t) {
    const auto x = norm_row(states[t], b.norm(NormKind::kInput), m);
    out.inputs[0].push_back(x);
    q.push_back(linear_row(x, b.linear(LinearKind::kQ)));
    k.push_back(linear_row(x, b.linear(LinearKind::kK)));
    v.push_back(linear_row(x, b.linear(LinearKind::kV)));
    heads(q.back(), b.norm(NormKind::kQ), t);
    heads(k.back(), b.norm(NormKind::kK), t);
  }
  const auto window = static_cast<size_t>(c.sliding_window[static_cast<size_t>(layer)]);
  const auto group = static_cast<size_t>(c.num_attention_heads / c.num_key_value_heads);
  for (size_t t = 0; t < states.size(); ++t) {
    std::vector<double> attended(q[t].size());
    for (size_t h = 0; h < static_cast<size_t>(c.num_attention_heads); ++h) {
      const size_t begin = window > 0 && t >= window ? t - window + 1 : 0;
      std::vector<double> p;
      double sum = 0;
      for (size_t s = begin; s <= t; ++s) {
        double score = 0;
        for (size_t i = 0; i < d; ++i) score += q[t][h * d + i] * k[s][h / group * d + i];
        score *= c.query_scale;
        const double cap = c.attention_logit_softcapping;
        if (cap > 0) score = cap * std::tanh(score / cap);
        p.push_back(std::exp(score));
        sum += p.back();
      }
      for (size_t s = begin; s <= t; ++s) {
        for (size_t i = 0; i < d; ++i) attended[h * d + i] += p[s - begin] / sum * v[s][h / group * d + i];
      }
    }
    out.inputs[1].push_back(attended);
    auto y = linear_row(attended, b.linear(LinearKind::kO));
    if (!b.norm(NormKind::kPostAttention).empty()) y = norm_row(y, b.norm(NormKind::kPostAttention), m);
    auto state = states[t];
    for (size_t i = 0; i < y.size(); ++i) state[i] += y[i];
    const auto x = norm_row(state, b.norm(NormKind::kPreFeedForward), m);
    out.inputs[2].push_back(x);
    auto g = linear_row(x, b.linear(LinearKind::kGate));
    const auto u = linear_row(x, b.linear(LinearKind::kUp));
    for (size_t i = 0; i < g.size(); ++i) g[i] = activate(g[i], c.activation) * u[i];
    out.inputs[3].push_back(g);
    y = linear_row(g, b.linear(LinearKind::kDown));
    if (!b.norm(NormKind::kPostFeedForward).empty()) y = norm_row(y, b.norm(NormKind::kPostFeedForward), m);
    for (size_t i = 0; i < y.size(); ++i) state[i] += y[i];
    out.states.push_back(state);
  }
  return out;
}

}  // namespace metal_marlin::testing
