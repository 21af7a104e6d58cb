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

}  // namespace

WeightMatrix::WeightMatrix(const float* weight, int64_t out_features, int64_t in_features, MatmulPrecision type)
    : floats_(weight, out_features, in_features, type) {
  type_ = floats_.type() == MatmulPrecision::kBF16 ? WeightType::kBF16 : WeightType::kF32;
}

WeightMatrix WeightMatrix::view(const float* weight, int64_t out_features, int64_t in_features) {
  WeightMatrix w;
  w.floats_ = PackedWeight::view(weight, out_features, in_features);
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
