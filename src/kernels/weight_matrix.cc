#include "kernels/weight_matrix.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/codes/kernels.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {

// Outputs of a panel of codes: even in tiles, as AMX takes two at a time; few enough for the products of many rows to
// stay in the cache and for all threads to have work, so many that handing out a panel costs nothing.
constexpr int64_t kPanelOutputs = 8 * kTileOutputs;

int64_t round_up(int64_t n, int64_t to) noexcept {
  return (n + to - 1) / to * to;
}

// Places of `count` channels from `first` on, all of `group`, in pieces of at most `length`.
void add_pieces(SegmentPlan& plan, int64_t first, int64_t count, int64_t group) {
  for (int64_t i = 0; i < count; i += plan.length)
    plan.pieces.push_back({first + i, std::min(plan.length, count - i), group});
}

int kept_bits(int bits) noexcept {
  return bits <= 4 ? 4 : 8;
}

int64_t scale_bytes(ScaleForm form) noexcept {
  return form == ScaleForm::kF32 ? 4 : 2;
}

int64_t tiles_of(int64_t out_features) noexcept {
  return (out_features + kTileOutputs - 1) / kTileOutputs;
}

// Puts the codes of one output and segment into the order of codes/product.h.
void put_codes(const uint8_t* codes, int64_t count, int64_t output, int bits, uint8_t* segment) noexcept {
  uint8_t* to = segment + 4 * output;
  if (bits == 8) {
    int64_t k = 0;
    for (; k + 4 <= count; k += 4) std::memcpy(to + k / 4 * kLineBytes, codes + k, 4);
    for (; k < count; ++k) to[k / 4 * kLineBytes + k % 4] = codes[k];
    return;
  }
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {  // four codes in a word: shifted, none touches its neighbour
    uint32_t low;
    uint32_t high;
    std::memcpy(&low, codes + k, 4);
    std::memcpy(&high, codes + k + 4, 4);
    low |= high << 4;
    std::memcpy(to + k / 8 * kLineBytes, &low, 4);
  }
  for (; k < count; ++k) {
    uint8_t& byte = to[k / 8 * kLineBytes + k % 4];
    byte = static_cast<uint8_t>(byte | (k % 8 < 4 ? codes[k] : codes[k] << 4));
  }
}

// The same for `count` channels, a multiple of 8, of `outputs` outputs; output o has its codes at codes + o * ld.
void put_lines(const uint8_t* codes, int64_t ld, int64_t count, int64_t outputs, int bits, uint8_t* lines) noexcept {
  if (bits == 8) {
    for (int64_t k = 0; k < count; k += 4, lines += kLineBytes)
      for (int64_t o = 0; o < outputs; ++o) std::memcpy(lines + 4 * o, codes + o * ld + k, 4);
    return;
  }
  for (int64_t k = 0; k < count; k += 8, lines += kLineBytes) {
    for (int64_t o = 0; o < outputs; ++o) {
      uint32_t low;
      uint32_t high;
      std::memcpy(&low, codes + o * ld + k, 4);
      std::memcpy(&high, codes + o * ld + k + 4, 4);
      low |= high << 4;
      std::memcpy(lines + 4 * o, &low, 4);
    }
  }
}

// Scales of `each` bytes of `segments` segments, those of output o at scales + o * ld, to [segment][16].
void put_scales(const uint8_t* scales, int64_t ld, int64_t segments, int64_t outputs, int64_t each,
                uint8_t* to) noexcept {
  for (int64_t s = 0; s < segments; ++s, to += kTileOutputs * each) {
    for (int64_t o = 0; o < outputs; ++o) {
      if (each == 4) {
        std::memcpy(to + 4 * o, scales + o * ld + 4 * s, 4);
      } else {
        std::memcpy(to + 2 * o, scales + o * ld + 2 * s, 2);
      }
    }
  }
}

}  // namespace

SegmentPlan SegmentPlan::of(int64_t in_features, int64_t group_size, std::span<const int32_t> group_index) {
  SegmentPlan plan;
  plan.features = in_features;
  // Long groups are cut evenly, each piece with the group's scale.
  const int64_t cuts = (group_size + kLongestSegment - 1) / kLongestSegment;
  plan.length = round_up((group_size + cuts - 1) / cuts, 8);
  if (group_index.empty()) {
    for (int64_t first = 0; first < in_features; first += group_size)
      add_pieces(plan, first, std::min(group_size, in_features - first), first / group_size);
    return plan;
  }
  plan.order.resize(static_cast<size_t>(in_features));
  std::iota(plan.order.begin(), plan.order.end(), 0);
  const auto group_of = [&](int32_t channel) { return group_index[static_cast<size_t>(channel)]; };
  std::stable_sort(plan.order.begin(), plan.order.end(),
                   [&](int32_t a, int32_t b) { return group_of(a) < group_of(b); });
  for (int64_t first = 0; first < in_features;) {
    const int32_t group = group_of(plan.order[static_cast<size_t>(first)]);
    int64_t end = first + 1;
    while (end < in_features && group_of(plan.order[static_cast<size_t>(end)]) == group) ++end;
    add_pieces(plan, first, end - first, group);
    first = end;
  }
  return plan;
}

WeightMatrix::WeightMatrix(const float* weight, int64_t out_features, int64_t in_features, MatmulPrecision type)
    : floats_(weight, out_features, in_features, type) {
  type_ = floats_.type() == MatmulPrecision::kBF16 ? WeightType::kBF16 : WeightType::kF32;
}

WeightMatrix WeightMatrix::view(const float* weight, int64_t out_features, int64_t in_features) {
  WeightMatrix w;
  w.floats_ = PackedWeight::view(weight, out_features, in_features);
  return w;
}

uint64_t code_bytes(const CodeForm& form, int64_t out_features, int64_t in_features) {
  const SegmentPlan plan = SegmentPlan::of(in_features, std::min(form.group, in_features), {});
  const int64_t of_output = scale_bytes(form.scales) * (form.minima ? 2 : 1) + (form.zeros ? 1 : 0);
  const int64_t of_segment = kTileOutputs * (plan.length * kept_bits(form.bits) / 8 + of_output);
  return static_cast<uint64_t>(tiles_of(out_features) * plan.segments() * of_segment);
}

std::unique_ptr<WeightMatrix::Codes> WeightMatrix::make_codes(SegmentPlan plan, int64_t out_features,
                                                              const CodeForm& form) {
  auto c = std::make_unique<Codes>();
  c->tiles.bits = kept_bits(form.bits);
  c->tiles.form = form.scales;
  c->tiles.segments = plan.segments();
  c->tiles.length = plan.length;
  c->tiles.out_features = out_features;
  // All in one piece: of a large one, whole huge pages, only the rest of the last page is wasted.
  const int64_t entries = tiles_of(out_features) * plan.segments();
  const int64_t scales = entries * kTileOutputs * scale_bytes(form.scales);
  c->scales_at = entries * c->tiles.segment_bytes();
  c->minima_at = c->scales_at + scales;
  c->zeros_at = c->minima_at + (form.minima ? scales : 0);
  c->memory = Buffer(static_cast<size_t>(c->zeros_at + (form.zeros ? entries * kTileOutputs : 0)));
  c->tiles.codes = c->codes();
  c->tiles.scales = c->scales();
  if (form.minima) c->tiles.minima = c->minima();
  if (form.zeros) c->tiles.zeros = c->zeros();
  c->plan = std::make_shared<const SegmentPlan>(std::move(plan));
  return c;
}

WeightMatrix WeightMatrix::of_codes(const QuantizedTensor& tensor, int64_t first_row, int64_t rows,
                                    std::span<const uint16_t> q_scale) {
  const int64_t in = tensor.in_features;
  if (first_row < 0 || rows <= 0 || first_row > tensor.out_features - rows || in <= 0 || tensor.group_size <= 0) {
    throw ArgumentError(
        fmt::format("weight of codes: expected rows within the {} outputs of [{}, {}], found {} from {}",
                    tensor.out_features, tensor.out_features, in, rows, first_row));
  }
  SegmentPlan plan = SegmentPlan::of(in, std::min(tensor.group_size, in), tensor.group_index);
  for (const uint16_t bits : q_scale) {
    const float factor = 1.0f / f16_to_f32(bits);
    if (!std::isfinite(factor) || factor == 0.0f) {
      throw NumericError(fmt::format("q_scale: expected finite values other than 0, found {} at channel {}",
                                     f16_to_f32(bits), plan.factors.size()));
    }
    plan.factors.push_back(factor);
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  const int64_t groups = tensor.groups();
  const auto* first_zero = tensor.zeros.data() + first_row * groups;
  const bool same_zeros =
      std::all_of(first_zero, first_zero + rows * groups, [&](uint8_t z) { return z == *first_zero; });
  CodeForm form;
  form.bits = tensor.bits;
  form.scales = tensor.scale_type == ScaleType::kBF16 ? ScaleForm::kBF16 : ScaleForm::kF16;
  form.zeros = !same_zeros;
  form.minima = !tensor.minima.empty();
  w.codes_ = make_codes(std::move(plan), rows, form);
  Codes& c = *w.codes_;
  const SegmentPlan& p = *c.plan;
  c.tiles.zero = *first_zero;
  auto* scales = reinterpret_cast<uint16_t*>(c.scales());
  auto* zeros = form.zeros ? c.zeros() : nullptr;
  auto* minima = form.minima ? reinterpret_cast<uint16_t*>(c.minima()) : nullptr;
  parallel_for(tiles_of(rows), [&](int64_t tile) {
    std::array<uint8_t, kLongestSegment> gathered;
    for (int64_t o = 0; o < std::min(kTileOutputs, rows - tile * kTileOutputs); ++o) {
      const int64_t row = first_row + tile * kTileOutputs + o;
      const uint8_t* codes = tensor.codes.data() + row * in;
      for (int64_t s = 0; s < p.segments(); ++s) {
        const auto& piece = p.pieces[static_cast<size_t>(s)];
        const uint8_t* from = codes + piece.first;
        if (!p.order.empty()) {
          for (int64_t k = 0; k < piece.count; ++k)
            gathered[static_cast<size_t>(k)] = codes[p.order[static_cast<size_t>(piece.first + k)]];
          from = gathered.data();
        }
        const int64_t at = tile * p.segments() + s;
        put_codes(from, piece.count, o, c.tiles.bits, c.codes() + at * c.tiles.segment_bytes());
        const int64_t to = at * kTileOutputs + o;
        const auto group = static_cast<size_t>(row * groups + piece.group);
        scales[to] = tensor.scales[group];
        if (zeros != nullptr) zeros[to] = tensor.zeros[group];
        if (minima != nullptr) minima[to] = tensor.minima[group];
      }
    }
  });
  return w;
}

WeightMatrix WeightMatrix::of_rows(const CodeRows& rows) {
  const CodeForm& form = rows.form;
  const int64_t in = rows.in_features;
  const bool whole = form.group > 0 && form.group % 8 == 0 && form.group <= kLongestSegment && rows.step > 0 &&
                     rows.step % form.group == 0 && in % rows.step == 0;
  if (rows.out_features <= 0 || in <= 0 || !whole || form.zeros) {
    throw ArgumentError(fmt::format(
        "weight of rows of codes: expected a shape of positive sizes in steps of whole groups of 8 to {} channels "
        "without zeros, found [{}, {}] in steps of {}, groups of {}{}",
        kLongestSegment, rows.out_features, in, rows.step, form.group, form.zeros ? " with zeros" : ""));
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  w.codes_ = make_codes(SegmentPlan::of(in, form.group, {}), rows.out_features, form);
  Codes& c = *w.codes_;
  c.tiles.zero = rows.zero;
  constexpr int64_t kAtOnce = 512;  // channels of 16 outputs: with their lines they stay in the first cache
  const int64_t most = std::max<int64_t>(1, kAtOnce / rows.step) * rows.step;
  const int64_t scale = scale_bytes(form.scales);
  parallel_for(tiles_of(rows.out_features), [&](int64_t tile) {
    thread_local std::vector<uint8_t> scratch;
    const int64_t of_scales = most / form.group * scale;
    scratch.resize(static_cast<size_t>(kTileOutputs * (most + 2 * of_scales)));
    uint8_t* codes = scratch.data();
    uint8_t* scales = codes + kTileOutputs * most;
    uint8_t* minima = scales + kTileOutputs * of_scales;
    const int64_t outputs = std::min(kTileOutputs, rows.out_features - tile * kTileOutputs);
    for (int64_t first = 0; first < in; first += most) {
      const int64_t count = std::min(most, in - first);
      for (int64_t o = 0; o < outputs; ++o) {
        rows.read(tile * kTileOutputs + o, first, count, codes + o * most, scales + o * of_scales,
                  form.minima ? minima + o * of_scales : nullptr);
      }
      const int64_t at = tile * c.tiles.segments + first / form.group;
      put_lines(codes, most, count, outputs, c.tiles.bits, c.codes() + at * c.tiles.segment_bytes());
      put_scales(scales, of_scales, count / form.group, outputs, scale, c.scales() + at * kTileOutputs * scale);
      if (form.minima)
        put_scales(minima, of_scales, count / form.group, outputs, scale, c.minima() + at * kTileOutputs * scale);
    }
  });
  return w;
}

WeightMatrix WeightMatrix::rounded_to_8_bits(
    int64_t out_features, int64_t in_features,
    const std::function<void(int64_t first, int64_t count, float* out)>& rows) {
  constexpr int64_t kGroup = kRoundedForm.group;
  if (out_features <= 0 || in_features <= 0) {
    throw ArgumentError(
        fmt::format("weight of 8 bits: expected a shape of positive sizes, found [{}, {}]", out_features, in_features));
  }
  WeightMatrix w;
  w.type_ = WeightType::kCodes;
  w.codes_ = make_codes(SegmentPlan::of(in_features, std::min(kGroup, in_features), {}), out_features, kRoundedForm);
  Codes& c = *w.codes_;
  c.tiles.zero = 128;
  const SegmentPlan& p = *c.plan;
  auto* scales = reinterpret_cast<uint16_t*>(c.scales());
  constexpr int64_t kTilesAtOnce = 8;
  parallel_for((tiles_of(out_features) + kTilesAtOnce - 1) / kTilesAtOnce, [&](int64_t i) {
    const int64_t first = i * kTilesAtOnce * kTileOutputs;
    const int64_t count = std::min(kTilesAtOnce * kTileOutputs, out_features - first);
    std::vector<float> values(static_cast<size_t>(count * in_features));
    rows(first, count, values.data());
    // A row is rounded at once; its last segment may be cut, and the rest of it is zeros.
    const auto segments = static_cast<size_t>(p.segments());
    const size_t padded = segments * static_cast<size_t>(p.length);
    std::vector<float> row(padded);
    std::vector<int8_t> rounded(padded);
    std::vector<uint8_t> codes(padded);
    std::vector<float> exact(segments);
    std::vector<int32_t> sums(segments);
    for (int64_t r = 0; r < count; ++r) {
      std::memcpy(row.data(), values.data() + r * in_features, static_cast<size_t>(in_features) * sizeof(float));
      code_kernels().round_segments(row.data(), p.segments(), p.length, rounded.data(), exact.data(), sums.data());
      for (size_t k = 0; k < padded; ++k) codes[k] = static_cast<uint8_t>(rounded[k] + 128);
      const int64_t output = (first + r) % kTileOutputs;
      for (int64_t s = 0; s < p.segments(); ++s) {
        const int64_t at = (first + r) / kTileOutputs * p.segments() + s;
        put_codes(codes.data() + s * p.length, p.pieces[static_cast<size_t>(s)].count, output, 8,
                  c.codes() + at * c.tiles.segment_bytes());
        // In f16 the scale moves by at most 2^-11 of itself: no code by more than 1/16 of a step.
        scales[at * kTileOutputs + output] = f32_to_f16(std::min(exact[static_cast<size_t>(s)], 65504.0f));
      }
    }
  });
  return w;
}

uint64_t WeightMatrix::bytes() const noexcept {
  if (!codes_) return floats_.bytes();
  return codes_->memory.size();
}

const std::shared_ptr<const SegmentPlan>& WeightMatrix::plan() const noexcept {
  static const std::shared_ptr<const SegmentPlan> none;
  return codes_ ? codes_->plan : none;
}

void WeightMatrix::share_plan(const WeightMatrix& other) {
  if (codes_ && other.codes_ && *codes_->plan == *other.codes_->plan) codes_->plan = other.codes_->plan;
}

int64_t WeightMatrix::panels() const noexcept {
  if (!codes_) return floats_.panels();
  return (codes_->tiles.out_features + kPanelOutputs - 1) / kPanelOutputs;
}

int64_t WeightMatrix::panel_begin(int64_t panel) const noexcept {
  return codes_ ? panel * kPanelOutputs : floats_.panel_begin(panel);
}

int64_t WeightMatrix::panel_width(int64_t panel) const noexcept {
  if (!codes_) return floats_.panel_width(panel);
  return std::min(kPanelOutputs, codes_->tiles.out_features - panel_begin(panel));
}

void WeightInput::assign(const WeightMatrix& weight, const float* x, int64_t rows, bool share) {
  if (x_ == x && rows_ == rows && type_ == weight.type() && plan_ == weight.plan()) return;
  x_ = x;
  rows_ = rows;
  type_ = weight.type();
  plan_ = weight.plan();
  if (type_ == WeightType::kCodes) {
    round(*plan_, x, rows, share);
  } else if (type_ == WeightType::kBF16) {
    const auto count = static_cast<size_t>(rows * weight.in_features());
    if (half_.size() < 2 * count) half_ = Buffer(2 * count);
    kernels().f32_to_bf16(x, static_cast<int64_t>(count), reinterpret_cast<uint16_t*>(half_.data()));
  }
}

void WeightInput::round(const SegmentPlan& plan, const float* x, int64_t rows, bool share) {
  const int64_t segments = plan.segments();
  const int64_t padded = segments * plan.length;
  // Not a multiple of 4096 bytes: rows would compete for the same places of the first cache.
  const int64_t ld = round_up(padded, kLineBytes) + kRowSlack;
  const int64_t all = round_up(rows, kRowBlock);
  const auto need = [](Buffer& b, int64_t bytes) {
    if (b.size() < static_cast<size_t>(bytes)) b = Buffer(static_cast<size_t>(bytes));
  };
  need(codes_, all * ld);
  need(scales_, all * segments * 4);
  need(sums_, all * segments * 4);
  auto* codes = reinterpret_cast<int8_t*>(codes_.data());
  auto* scales = reinterpret_cast<float*>(scales_.data());
  auto* sums = reinterpret_cast<int32_t*>(sums_.data());
  rounded_ = {codes, ld, scales, sums};
  const bool as_it_is = plan.order.empty() && plan.factors.empty() && padded == plan.features;
  const auto one = [&](int64_t r) {
    const float* row = x + r * plan.features;
    if (!as_it_is) {
      thread_local std::vector<float> laid_out;
      laid_out.assign(static_cast<size_t>(padded), 0.0f);
      for (int64_t s = 0; s < segments; ++s) {
        const auto& piece = plan.pieces[static_cast<size_t>(s)];
        float* to = laid_out.data() + s * plan.length;
        for (int64_t k = 0; k < piece.count; ++k) {
          const int64_t place = piece.first + k;
          const int64_t channel = plan.order.empty() ? place : plan.order[static_cast<size_t>(place)];
          to[k] = plan.factors.empty() ? row[channel] : row[channel] * plan.factors[static_cast<size_t>(channel)];
        }
      }
      row = laid_out.data();
    }
    code_kernels().round_segments(row, segments, plan.length, codes + r * ld, scales + r * segments,
                                  sums + r * segments);
  };
  constexpr int64_t kRowsOfTask = 16;
  if (share && rows >= 2 * kRowsOfTask) {
    parallel_for((rows + kRowsOfTask - 1) / kRowsOfTask, [&](int64_t i) {
      for (int64_t r = i * kRowsOfTask; r < std::min(rows, (i + 1) * kRowsOfTask); ++r) one(r);
    });
  } else {
    for (int64_t r = 0; r < rows; ++r) one(r);
  }
}

const void* WeightInput::floats() const noexcept {
  return type_ == WeightType::kBF16 ? static_cast<const void*>(half_.data()) : x_;
}

void multiply_panel_to(const WeightMatrix& w, int64_t panel, const WeightInput& input, float* out) {
  if (w.type() != WeightType::kCodes) return w.floats().multiply(panel, input.floats(), input.rows(), out);
  const int64_t width = w.panel_width(panel);
  code_kernels().multiply_codes(w.tiles(), w.panel_begin(panel) / kTileOutputs,
                                (width + kTileOutputs - 1) / kTileOutputs, input.rounded(), input.rows(), out, width);
}

void multiply_panel(const WeightMatrix& w, int64_t panel, const WeightInput& input, const float* bias, float* y,
                    int64_t ldy) {
  const int64_t begin = w.panel_begin(panel);
  const int64_t width = w.panel_width(panel);
  const int64_t rows = input.rows();
  float* to = y + begin;
  if (w.type() == WeightType::kCodes) {
    code_kernels().multiply_codes(w.tiles(), begin / kTileOutputs, (width + kTileOutputs - 1) / kTileOutputs,
                                  input.rounded(), rows, to, ldy);
  } else if (width == ldy) {
    multiply_panel_to(w, panel, input, to);
  } else {
    float* out = thread_scratch(2, rows * width);
    multiply_panel_to(w, panel, input, out);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * ldy, out + r * width, static_cast<size_t>(width) * sizeof(float));
  }
  for (int64_t r = 0; bias != nullptr && r < rows; ++r) kernels().add(bias + begin, width, to + r * ldy);
}

void multiply(std::span<const LinearTask> tasks, const float* x, int64_t rows, bool share) {
  // Per thread: those that call this beside each other do not share it. Tasks that run meanwhile only read it.
  thread_local std::array<WeightInput, 3> inputs;
  std::array<const WeightInput*, 3> of_task{};
  int64_t panels = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const WeightMatrix& w = *tasks[i].weight;
    of_task[i] = nullptr;
    for (size_t j = 0; j < i && of_task[i] == nullptr; ++j) {
      if (tasks[j].weight->type() == w.type() && tasks[j].weight->plan() == w.plan()) of_task[i] = of_task[j];
    }
    if (of_task[i] == nullptr) {
      inputs[i].forget();
      inputs[i].assign(w, x, rows, share);
      of_task[i] = &inputs[i];
    }
    panels += w.panels();
  }
  const auto run = [&](int64_t p) {
    size_t i = 0;
    while (p >= tasks[i].weight->panels()) p -= tasks[i++].weight->panels();
    multiply_panel(*tasks[i].weight, p, *of_task[i], tasks[i].bias, tasks[i].y, tasks[i].ldy);
  };
  if (share) {
    parallel_for(panels, run);
  } else {
    for (int64_t p = 0; p < panels; ++p) run(p);
  }
}

}  // namespace metal_marlin
