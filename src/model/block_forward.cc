#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "core/counted.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "kernels/weight_matrix.h"
#include "model/attention.h"
#include "model/block.h"
#include "model/kv_cache.h"
#include "model/prepared_block.h"
#include "model/rope.h"

namespace metal_marlin {
namespace {

constexpr int64_t kTileRows =
    128;  // rows of a tile: enough for the GEMM's full speed, and a tile's activations fit into L2
constexpr int64_t kFewRows = 256;      // up to here the threads share the panels of a weight instead of the rows
constexpr int64_t kSuperBlock = 1024;  // queries of one attention task
constexpr uint64_t kPackAtMost = uint64_t{256} << 20;  // larger blocks are not held twice

enum Slot { kTile = 3, kGate = 4, kUp = 5, kAct = 6 };  // of thread_scratch

using ActMul = void (*)(const float*, const float*, int64_t, float*) noexcept;

ActMul act_mul(Activation a) {
  switch (a) {
    case Activation::kGelu:
      return kernels().gelu_mul;
    case Activation::kGeluTanh:
      return kernels().gelu_tanh_mul;
    case Activation::kRelu:
      return kernels().relu_mul;
    case Activation::kSilu:
      break;
  }
  return kernels().silu_mul;
}

// One batch of whole sequences, in run().
struct Batch {
  int64_t first_row = 0;  // in the states
  int64_t rows = 0;
  int64_t first_sequence = 0;
  std::vector<int64_t> lengths;
  std::vector<int64_t> starts;    // first row within the batch
  std::vector<int64_t> past;      // positions in the cache before
  std::vector<const float*> cos;  // per row
  std::vector<const float*> sin;
};

}  // namespace

struct BlockForward::Impl {
  const Family& family;
  const ModelConfig& config;
  MatmulPrecision precision;
  int64_t q_dim;
  int64_t kv_dim;
  Matrix h, q, k, v, attended, act;                     // scratch of a batch, grown as needed
  std::map<std::pair<bool, int64_t>, RopeTable> ropes;  // by (local, length that the frequencies depend on)

  Impl(const Family& f, const ModelConfig& c, MatmulPrecision p)
      : family(f),
        config(c),
        precision(p == MatmulPrecision::kBF16 && has_bf16_gemm() ? p : MatmulPrecision::kF32),
        q_dim(c.num_attention_heads * c.head_dim),
        kv_dim(c.num_key_value_heads * c.head_dim) {}

  float eps() const { return static_cast<float>(config.rms_norm_eps); }
  float norm_offset() const { return family.offset_norm ? 1.0f : 0.0f; }
  int64_t window(int64_t layer) const {
    const auto l = static_cast<size_t>(layer);
    return l < config.sliding_window.size() ? config.sliding_window[l] : 0;
  }
  bool local_rope(int64_t layer) const {
    const auto l = static_cast<size_t>(layer);
    return l < config.layer_uses_local_rope.size() && config.layer_uses_local_rope[l];
  }

  // Returns the table for a sequence that ends at position `total`, with at least `total` positions.
  const RopeTable& rope(int64_t layer, int64_t total) {
    const bool local = local_rope(layer);
    const RopeConfig& c = local ? config.local_rope : config.rope;
    int64_t key = 0;
    if (c.type == RopeType::kDynamic) key = std::max(total, config.max_position_embeddings);
    if (c.type == RopeType::kLongrope && total > c.original_max_position_embeddings)
      key = c.original_max_position_embeddings + 1;
    RopeTable& table = ropes[{local, key}];
    if (table.cos.rows() < total) {
      int64_t positions = 64;
      while (positions < total) positions *= 2;
      table = make_rope(c, config.head_dim, config.max_position_embeddings, key, positions);
    }
    return table;
  }

  void check(int64_t layer, const PreparedBlock& block, const Matrix& states, std::span<const int64_t> lengths,
             const KvCache* cache) const;
  Batch make_batch(int64_t layer, size_t first, int64_t first_row, std::span<const int64_t> lengths,
                   const KvCache* cache);
  void run_batch(int64_t layer, const PreparedBlock& block, float* states, const Batch& batch, const InputHook& hook,
                 KvCache* cache);

  // Whether the threads share the panels of a weight, or each takes tiles of rows. With codes the result is the same,
  // so that rows enough for all threads go through the whole block in tiles.
  static bool few_rows(const PreparedBlock& b, int64_t rows) {
    return rows <= kFewRows && !(rows >= kTileRows * threads() && b.all_codes());
  }

  // Calls f(first row, rows) for tiles of the batch, in parallel when there are many rows, once otherwise. Many rows
  // may take long: Interrupted between tiles as set_interrupt_check() says.
  template <class F>
  void for_tiles(int64_t rows, bool few, const F& f) const {
    if (few) {
      f(0, rows);
      return;
    }
    parallel_for((rows + kTileRows - 1) / kTileRows, [&](int64_t i) {
      stop_if_asked();
      f(i * kTileRows, std::min(kTileRows, rows - i * kTileRows));
    });
  }
  static void linear(const PreparedLinear& l, const float* x, int64_t rows, bool few, float* y, int64_t ldy) {
    const LinearTask task{&l.weight, l.bias_or_null(), y, ldy};
    multiply(std::span(&task, 1), x, rows, few);
  }
  void norm_rows(const float* x, const std::vector<float>& weight, int64_t rows, float* y) const {
    const auto n = static_cast<int64_t>(weight.size());
    for (int64_t r = 0; r < rows; ++r) kernels().rms_norm(x + r * n, weight.data(), norm_offset(), eps(), n, y + r * n);
  }

  void head_norm_rope(const std::vector<float>& weight, float* row, int64_t heads, int64_t half, const float* cos,
                      const float* sin) const;
  void project_qkv(const PreparedBlock& b, const Batch& batch, int64_t half, int64_t row, int64_t rows, bool few);
  void attention(int64_t layer, const Batch& batch, const KvCache* cache);
  // Adds to the states y [rows, hidden], the linear of x, after a norm where the family has one there.
  void add_to_states(const PreparedLinear& l, const std::vector<float>& post_norm, const float* x, int64_t rows,
                     bool few, float* states) const;
  void gate_up(const PreparedBlock& b, const float* x, int64_t rows, bool few, float* out) const;
};

namespace {

void grow(Matrix& m, int64_t rows, int64_t cols) {
  if (m.rows() >= rows && m.cols() == cols) return;
  m = Matrix();
  m = Matrix(rows, cols);
}

}  // namespace

void BlockForward::Impl::check(int64_t layer, const PreparedBlock& block, const Matrix& states,
                               std::span<const int64_t> lengths, const KvCache* cache) const {
  if (layer < 0 || layer >= config.num_hidden_layers) {
    throw ArgumentError(fmt::format("forward: no layer {} in a model of {}", layer, config.num_hidden_layers));
  }
  int64_t tokens = 0;
  for (const int64_t n : lengths) {
    if (n < 0) throw ArgumentError(fmt::format("forward: a sequence of {}", counted(n, "token")));
    tokens += n;
  }
  if (tokens != states.rows() || states.cols() != config.hidden_size) {
    throw ArgumentError(fmt::format("forward: expected states [{}, {}], found [{}, {}]", tokens, config.hidden_size,
                                    states.rows(), states.cols()));
  }
  if (cache != nullptr && static_cast<int64_t>(lengths.size()) > cache->sequences()) {
    throw ArgumentError(fmt::format("forward: {}, but the cache has room for {}", counted(lengths.size(), "sequence"),
                                    cache->sequences()));
  }
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.intermediate_size;
  const std::array<std::pair<int64_t, int64_t>, kLinears> shapes = {{{q_dim, hidden},
                                                                     {kv_dim, hidden},
                                                                     {kv_dim, hidden},
                                                                     {hidden, q_dim},
                                                                     {ffn, hidden},
                                                                     {ffn, hidden},
                                                                     {hidden, ffn}}};
  for (int i = 0; i < kLinears; ++i) {
    const auto kind = static_cast<LinearKind>(i);
    const PreparedLinear& l = block.linear(kind);
    const auto [out, in] = shapes[static_cast<size_t>(i)];
    if (l.weight.out_features() != out || l.weight.in_features() != in) {
      throw ArgumentError(fmt::format("forward: layer {}, linear {}: expected [{}, {}], found [{}, {}]", layer, i, out,
                                      in, l.weight.out_features(), l.weight.in_features()));
    }
    if (!l.bias.empty() && static_cast<int64_t>(l.bias.size()) != out) {
      throw ArgumentError(fmt::format("forward: layer {}, bias of linear {}: expected {}, found {}", layer, i,
                                      counted(out, "value"), l.bias.size()));
    }
  }
  for (int i = 0; i < kNorms; ++i) {
    const auto kind = static_cast<NormKind>(i);
    const auto size = static_cast<int64_t>(block.norm(kind).size());
    const bool needed = kind == NormKind::kInput || kind == NormKind::kPreFeedForward;
    const int64_t expected = kind == NormKind::kQ || kind == NormKind::kK ? config.head_dim : hidden;
    if ((size != 0 || needed) && size != expected) {
      throw ArgumentError(fmt::format("forward: layer {}, norm {}: expected {}, found {}", layer, i,
                                      counted(expected, "weight"), size));
    }
  }
}

Batch BlockForward::Impl::make_batch(int64_t layer, size_t first, int64_t first_row, std::span<const int64_t> lengths,
                                     const KvCache* cache) {
  Batch batch;
  batch.first_row = first_row;
  batch.first_sequence = static_cast<int64_t>(first);
  for (size_t i = first; i < lengths.size(); ++i) {
    if (batch.rows > 0 && batch.rows + lengths[i] > kBatchTokens) break;
    batch.lengths.push_back(lengths[i]);
    batch.starts.push_back(batch.rows);
    batch.past.push_back(cache == nullptr ? 0 : cache->length(layer, static_cast<int64_t>(i)));
    batch.rows += lengths[i];
  }
  // Make all tables first, because a longer sequence replaces the table that a shorter one uses.
  for (size_t i = 0; i < batch.lengths.size(); ++i) rope(layer, batch.past[i] + batch.lengths[i]);
  for (size_t i = 0; i < batch.lengths.size(); ++i) {
    const RopeTable& table = rope(layer, batch.past[i] + batch.lengths[i]);
    for (int64_t p = batch.past[i]; p < batch.past[i] + batch.lengths[i]; ++p) {
      batch.cos.push_back(table.cos.row(p).data());
      batch.sin.push_back(table.sin.row(p).data());
    }
  }
  return batch;
}

void BlockForward::Impl::head_norm_rope(const std::vector<float>& weight, float* row, int64_t heads, int64_t half,
                                        const float* cos, const float* sin) const {
  for (int64_t i = 0; i < heads; ++i) {
    float* head = row + i * config.head_dim;
    if (!weight.empty()) {
      kernels().rms_norm(head, weight.data(), norm_offset(), eps(), config.head_dim, head);
    }
    kernels().rope(head, cos, sin, half);
  }
}

void BlockForward::Impl::project_qkv(const PreparedBlock& b, const Batch& batch, int64_t half, int64_t row,
                                     int64_t rows, bool few) {
  const float* x = h.data() + row * config.hidden_size;
  const auto task = [&](LinearKind kind, Matrix& y) {
    const PreparedLinear& l = b.linear(kind);
    return LinearTask{&l.weight, l.bias_or_null(), y.data() + row * y.cols(), y.cols()};
  };
  const LinearTask tasks[] = {task(LinearKind::kQ, q), task(LinearKind::kK, k), task(LinearKind::kV, v)};
  multiply(tasks, x, rows, few);
  for (int64_t r = row; r < row + rows; ++r) {
    const auto i = static_cast<size_t>(r);
    head_norm_rope(b.norm(NormKind::kQ), q.data() + r * q_dim, config.num_attention_heads, half, batch.cos[i],
                   batch.sin[i]);
    head_norm_rope(b.norm(NormKind::kK), k.data() + r * kv_dim, config.num_key_value_heads, half, batch.cos[i],
                   batch.sin[i]);
  }
}

void BlockForward::Impl::attention(int64_t layer, const Batch& batch, const KvCache* cache) {
  const int64_t group = config.num_attention_heads / config.num_key_value_heads;
  const int64_t d = config.head_dim;
  const auto scale = static_cast<float>(config.query_scale);
  const auto cap = static_cast<float>(config.attention_logit_softcapping);
  if (cache != nullptr) {
    std::vector<CachedQueries> sequences;
    for (size_t s = 0; s < batch.lengths.size(); ++s) {
      const int64_t at = batch.starts[s] * q_dim;
      sequences.push_back(
          {batch.first_sequence + static_cast<int64_t>(s), batch.lengths[s], q.data() + at, attended.data() + at});
    }
    attend_cached(*cache, {layer, config.num_key_value_heads, group, d, q_dim, window(layer), scale, cap}, sequences);
    return;
  }
  struct Item {
    size_t sequence;
    int64_t head;
    int64_t query;  // first, within the sequence's new tokens
  };
  std::vector<Item> items;
  for (size_t s = 0; s < batch.lengths.size(); ++s) {
    for (int64_t head = 0; head < config.num_key_value_heads; ++head) {
      for (int64_t i = 0; i < batch.lengths[s]; i += kSuperBlock) items.push_back({s, head, i});
    }
  }
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t n) {
    stop_if_asked();
    const Item& item = items[static_cast<size_t>(n)];
    const int64_t row = batch.starts[item.sequence] + item.query;
    AttentionTask t;
    t.q = q.data() + row * q_dim + item.head * group * d;
    t.ldq = q_dim;
    t.group = group;
    t.head_dim = d;
    t.first_query = item.query;
    t.queries = std::min(kSuperBlock, batch.lengths[item.sequence] - item.query);
    t.window = window(layer);
    t.scale = scale;
    t.cap = cap;
    t.out = attended.data() + row * q_dim + item.head * group * d;
    t.ldo = q_dim;
    t.k = k.data() + batch.starts[item.sequence] * kv_dim + item.head * d;
    t.v = v.data() + batch.starts[item.sequence] * kv_dim + item.head * d;
    t.ldk = kv_dim;
    attend(t);
  });
}

void BlockForward::Impl::add_to_states(const PreparedLinear& l, const std::vector<float>& post_norm, const float* x,
                                       int64_t rows, bool few, float* states) const {
  const int64_t hidden = config.hidden_size;
  float* y = thread_scratch(kTile, rows * hidden);
  linear(l, x, rows, few, y, hidden);
  if (!post_norm.empty()) norm_rows(y, post_norm, rows, y);
  kernels().add(y, rows * hidden, states);
}

void BlockForward::Impl::gate_up(const PreparedBlock& b, const float* x, int64_t rows, bool few, float* out) const {
  const PreparedLinear& gate = b.linear(LinearKind::kGate);
  const PreparedLinear& up = b.linear(LinearKind::kUp);
  const ActMul multiply_act = act_mul(config.activation);
  const int64_t ffn = config.intermediate_size;
  if (gate.weight.type() != up.weight.type() || gate.weight.plan() != up.weight.plan()) {
    // Nothing in common: the products one after the other.
    float* u = thread_scratch(kUp, rows * ffn);
    linear(gate, x, rows, few, out, ffn);
    linear(up, x, rows, few, u, ffn);
    for (int64_t r = 0; r < rows; ++r) multiply_act(out + r * ffn, u + r * ffn, ffn, out + r * ffn);
    return;
  }
  thread_local WeightInput of_thread;
  WeightInput& input = of_thread;  // this thread's, also in the panels
  input.forget();
  input.assign(gate.weight, x, rows, few);
  const auto panel = [&](int64_t p) {
    const int64_t begin = gate.weight.panel_begin(p);
    const int64_t width = gate.weight.panel_width(p);
    float* g = thread_scratch(kGate, rows * width);
    float* u = thread_scratch(kUp, rows * width);
    multiply_panel_to(gate.weight, p, input, g);
    multiply_panel_to(up.weight, p, input, u);
    for (int64_t r = 0; r < rows; ++r) {
      if (!gate.bias.empty()) kernels().add(gate.bias.data() + begin, width, g + r * width);
      if (!up.bias.empty()) kernels().add(up.bias.data() + begin, width, u + r * width);
      multiply_act(g + r * width, u + r * width, width, out + r * ffn + begin);
    }
  };
  if (few) {
    parallel_for(gate.weight.panels(), panel);
  } else {
    for (int64_t p = 0; p < gate.weight.panels(); ++p) panel(p);
  }
}

void BlockForward::Impl::run_batch(int64_t layer, const PreparedBlock& b, float* states, const Batch& batch,
                                   const InputHook& hook, KvCache* cache) {
  const int64_t rows = batch.rows;
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.intermediate_size;
  const bool few = few_rows(b, rows);
  const int64_t half = rope(layer, 1).half;
  grow(h, rows, hidden);
  grow(q, rows, q_dim);
  grow(k, rows, kv_dim);
  grow(v, rows, kv_dim);
  grow(attended, rows, q_dim);

  for_tiles(rows, few, [&](int64_t r, int64_t n) {
    norm_rows(states + r * hidden, b.norm(NormKind::kInput), n, h.data() + r * hidden);
    project_qkv(b, batch, half, r, n, few);
  });
  if (hook) hook(LinearInput::kQkv, h.data(), rows, hidden);
  if (cache != nullptr) {
    for (size_t s = 0; s < batch.lengths.size(); ++s) {
      const int64_t at = batch.starts[s] * kv_dim;
      cache->append(layer, batch.first_sequence + static_cast<int64_t>(s), k.data() + at, v.data() + at, kv_dim,
                    batch.lengths[s]);
    }
  }
  attention(layer, batch, cache);
  if (hook) hook(LinearInput::kO, attended.data(), rows, q_dim);

  const auto after_attention = [&](int64_t r, int64_t n) {
    add_to_states(b.linear(LinearKind::kO), b.norm(NormKind::kPostAttention), attended.data() + r * q_dim, n, few,
                  states + r * hidden);
    norm_rows(states + r * hidden, b.norm(NormKind::kPreFeedForward), n, h.data() + r * hidden);
  };
  const auto down = [&](int64_t r, int64_t n, const float* x) {
    add_to_states(b.linear(LinearKind::kDown), b.norm(NormKind::kPostFeedForward), x, n, few, states + r * hidden);
  };
  if (!hook) {  // without a hook a tile can go through all steps while it is in the cache
    for_tiles(rows, few, [&](int64_t r, int64_t n) {
      after_attention(r, n);
      float* x = thread_scratch(kAct, n * ffn);
      gate_up(b, h.data() + r * hidden, n, few, x);
      down(r, n, x);
    });
    return;
  }
  grow(act, rows, ffn);
  for_tiles(rows, few, after_attention);
  hook(LinearInput::kGateUp, h.data(), rows, hidden);
  for_tiles(rows, few, [&](int64_t r, int64_t n) { gate_up(b, h.data() + r * hidden, n, few, act.data() + r * ffn); });
  hook(LinearInput::kDown, act.data(), rows, ffn);
  for_tiles(rows, few, [&](int64_t r, int64_t n) { down(r, n, act.data() + r * ffn); });
}

BlockForward::BlockForward(const Family& family, const ModelConfig& config, MatmulPrecision precision)
    : impl_(std::make_unique<Impl>(family, config, precision)) {}
BlockForward::~BlockForward() = default;

MatmulPrecision BlockForward::precision() const noexcept {
  return impl_->precision;
}

std::shared_ptr<const PreparedBlock> BlockForward::prepare(const Block& block) const {
  return std::make_shared<const PreparedBlock>(block, impl_->precision, false);
}

void BlockForward::run(int64_t layer, const Block& block, Matrix& states, std::span<const int64_t> lengths,
                       const InputHook& hook, KvCache* cache) {
  uint64_t bytes = 0;
  for (const auto& l : block.linears) bytes += static_cast<uint64_t>(l.weight.size()) * sizeof(float);
  // A single batch of few rows reads each weight only once or twice, so packing would cost as much as the product.
  const bool in_place = bytes > kPackAtMost || states.rows() <= 16;
  run(layer, PreparedBlock(block, impl_->precision, in_place), states, lengths, hook, cache);
}

void BlockForward::run(int64_t layer, const PreparedBlock& block, Matrix& states, std::span<const int64_t> lengths,
                       const InputHook& hook, KvCache* cache) {
  impl_->check(layer, block, states, lengths, cache);
  if (impl_->ropes.size() > 8) impl_->ropes.clear();  // dynamic: one table per length beyond the trained one
  int64_t row = 0;
  for (size_t s = 0; s < lengths.size();) {
    const Batch batch = impl_->make_batch(layer, s, row, lengths, cache);
    if (batch.rows > 0) {
      impl_->run_batch(layer, block, states.data() + row * states.cols(), batch, hook, cache);
    }
    row += batch.rows;
    s += batch.lengths.size();
  }
}

double BlockForward::operations(int64_t layer, std::span<const int64_t> lengths) const {
  const auto& c = impl_->config;
  const double weights = static_cast<double>(c.hidden_size) *
                         static_cast<double>(2 * impl_->q_dim + 2 * impl_->kv_dim + 3 * c.intermediate_size);
  const int64_t window = impl_->window(layer);
  double tokens = 0;
  double pairs = 0;
  for (const int64_t n : lengths) {
    tokens += static_cast<double>(n);
    const int64_t full = window > 0 ? std::min(window, n) : n;  // positions that see everything before them
    pairs += 0.5 * static_cast<double>(full) * static_cast<double>(full + 1) +
             static_cast<double>(n - full) * static_cast<double>(full);
  }
  return 2.0 * tokens * weights + 4.0 * pairs * static_cast<double>(impl_->q_dim);
}

uint64_t BlockForward::scratch_bytes(int64_t length, bool packs) const {
  const auto& c = impl_->config;
  const int64_t rows = std::max(length, kBatchTokens);
  const int64_t batch = rows * (c.hidden_size + 2 * impl_->q_dim + 2 * impl_->kv_dim + c.intermediate_size + 4);
  const int64_t tile = kFewRows * (c.hidden_size + c.intermediate_size + 3 * PackedWeight::kPanel);
  const int64_t attention = length * (kQueryBlock + 3 * c.head_dim);
  const int64_t weights = c.hidden_size * (2 * impl_->q_dim + 2 * impl_->kv_dim + 3 * c.intermediate_size);
  uint64_t packed = static_cast<uint64_t>(weights) * (impl_->precision == MatmulPrecision::kBF16 ? 2 : 4);
  if (!packs || (impl_->precision == MatmulPrecision::kF32 && packed > kPackAtMost)) packed = 0;
  return 4 * static_cast<uint64_t>(batch + threads() * std::max(tile, attention)) + packed;
}

}  // namespace metal_marlin
