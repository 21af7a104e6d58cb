#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/gptq.h"
#include "quantize/group_range.h"
#include "quantize/rtn.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRows = 64;      // of the tiles of weights
constexpr float kOffGrid = 0.05f;  // largest distance of a value from the nearest code, in steps; float16 scales move
                                   // the largest value by 0.004
constexpr int64_t kStages = 3;

Grid layer_grid(int bits, int64_t group_size, bool sym) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    throw ArgumentError(fmt::format("bits: expected 2, 3, 4 or 8, found {}", bits));
  }
  expect_group_size(group_size, true);
  return {bits, sym, group_size};
}

// Returns the columns by descending diagonal, ties by index.
std::vector<int64_t> act_order(const Matrix& h) {
  std::vector<int64_t> order(static_cast<size_t>(h.rows()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return h(a, a) > h(b, b); });
  return order;
}

Matrix permute_columns(const Matrix& in, std::span<const int64_t> order) {
  Matrix out(in.rows(), in.cols());
  parallel_for((in.rows() + kRows - 1) / kRows, [&](int64_t tile) {
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, in.rows()); ++r) {
      for (int64_t c = 0; c < in.cols(); ++c) out(r, c) = in(r, order[static_cast<size_t>(c)]);
    }
  });
  return out;
}

Matrix permute_both(const Matrix& in, std::span<const int64_t> order) {
  const Matrix columns = permute_columns(in, order);
  Matrix out(in.rows(), in.cols());
  for (int64_t r = 0; r < in.rows(); ++r) {
    const std::span<const float> from = columns.row(order[static_cast<size_t>(r)]);
    std::copy(from.begin(), from.end(), out.row(r).begin());
  }
  return out;
}

void refuse_clamped(const GroupRanges& ranges) {
  if (ranges.counts.clamped == 0) return;
  throw NumericError(
      fmt::format("W: expected values whose group scales float16 can hold (at most 65504), found {} that {} it; "
                  "divide the weights by a constant",
                  counted(ranges.counts.clamped, "group"), form_for(ranges.counts.clamped, "exceeds", "exceed")));
}

// `weight` and q are in the order in which groups are formed; perm gives the original order.
GPTQResult result_of(const Matrix& weight, const QuantizedTensor& q, std::vector<int64_t> perm, const Matrix* hessian) {
  GPTQResult result;
  const int64_t n = q.out_features;
  const int64_t k = q.in_features;
  const int64_t groups = q.groups();
  result.Q = Array(ElementType::kF32, {n, k});
  result.scales = Array(ElementType::kF32, {groups, n});
  if (!q.symmetric) result.zeros = Array(ElementType::kF32, {groups, n});
  const int64_t tiles = (n + kRows - 1) / kRows;
  std::vector<double> squares(static_cast<size_t>(tiles), 0.0);
  std::vector<double> outputs(static_cast<size_t>(tiles), 0.0);
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t first = tile * kRows;
    const int64_t rows = std::min(kRows, n - first);
    std::vector<float> values(static_cast<size_t>(rows * k));
    dequantize_rows(q, first, rows, values.data());
    for (int64_t r = 0; r < rows; ++r) {
      float* v = values.data() + r * k;
      float* to = result.Q.as<float>() + (first + r) * k;
      const float* w = weight.row(first + r).data();
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) {
        to[perm.empty() ? c : perm[static_cast<size_t>(c)]] = v[c];
        v[c] -= w[c];
        sum += static_cast<double>(v[c]) * v[c];
      }
      squares[static_cast<size_t>(tile)] += sum;
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>((first + r) * groups + g);
        result.scales.as<float>()[g * n + first + r] = f16_to_f32(q.scales[at]);
        if (!q.symmetric) result.zeros.as<float>()[g * n + first + r] = static_cast<float>(q.zeros[at]);
      }
    }
    if (hessian == nullptr) return;
    std::vector<float> scratch(static_cast<size_t>(rows * kQuadraticColumns));
    std::vector<double> forms(static_cast<size_t>(rows));
    quadratic_rows(values.data(), rows, k, hessian->data(), k, k, scratch.data(), forms.data());
    for (const double form : forms) outputs[static_cast<size_t>(tile)] += form;
  });
  result.quantization_error = std::accumulate(squares.begin(), squares.end(), 0.0);
  result.total_error = hessian == nullptr ? -1.0 : std::max(std::accumulate(outputs.begin(), outputs.end(), 0.0), 0.0);
  result.perm = std::move(perm);
  return result;
}

GPTQResult by_hessian(const Matrix& weight, const Matrix& hessian, const Grid& grid, bool actorder, double damp,
                      const Observer& observer) {
  std::vector<int64_t> perm;
  Matrix moved_weight;
  Matrix moved_hessian;
  if (actorder) {
    perm = act_order(hessian);
    moved_weight = permute_columns(weight, perm);
    moved_hessian = permute_both(hessian, perm);
  }
  const Matrix& w = actorder ? moved_weight : weight;
  const Matrix& h = actorder ? moved_hessian : hessian;
  report_stage(observer, "search ranges", 0, kStages);
  RangeOptions range;
  range.method = RangeMethod::kGram;
  const GroupRanges ranges = group_ranges(w, grid, range, &h);
  refuse_clamped(ranges);
  report_stage(observer, "round", 1, kStages);
  GptqOptions options;
  options.act_order = false;  // the columns stand in their order already
  options.damping = damp;
  options.relative_damping = false;
  const QuantizedTensor q = quantize_gptq(w, make_gptq_factor(h, options), ranges, grid);
  report_stage(observer, "measure", 2, kStages);
  return result_of(w, q, std::move(perm), &h);
}

GPTQResult by_rounding(const Matrix& weight, const Grid& grid, const Matrix* hessian) {
  const GroupRanges ranges = group_ranges(weight, grid);
  refuse_clamped(ranges);
  return result_of(weight, metal_marlin::quantize_rtn(weight, ranges, grid), {}, hessian);
}

// Returns the group of each column. Throws ArgumentError unless perm is empty or a permutation.
std::vector<int64_t> groups_of(const std::vector<int64_t>& perm, int64_t k, int64_t group) {
  std::vector<int64_t> groups(static_cast<size_t>(k), -1);
  if (!perm.empty() && static_cast<int64_t>(perm.size()) != k) {
    throw ArgumentError(fmt::format("perm: expected {} as Q has columns, found {}", counted(k, "number"), perm.size()));
  }
  for (int64_t j = 0; j < k; ++j) {
    const int64_t column = perm.empty() ? j : perm[static_cast<size_t>(j)];
    if (column < 0 || column >= k || groups[static_cast<size_t>(column)] >= 0) {
      throw ArgumentError(fmt::format("perm: expected each of 0 .. {} once, found {} at [{}]", k - 1, column, j));
    }
    groups[static_cast<size_t>(column)] = j / group;
  }
  return groups;
}

}  // namespace

Array compute_hessian(const ArrayView& activations, bool normalize) try {
  const ThreadCount thread_count;
  expect_activations(activations, "activations");
  return sum_of_products(activations, normalize ? 2.0 / static_cast<double>(token_count(activations)) : 2.0,
                         "activations");
} catch (...) {
  rethrow_as_error("compute_hessian");
}

GPTQResult quantize_layer_gptq(const ArrayView& W, const ArrayView& H, int bits, int64_t group_size, bool sym,
                               bool actorder, double damp, const Observer& observer) try {
  const ThreadCount thread_count;
  const Grid grid = layer_grid(bits, group_size, sym);
  expect_damping(damp, "damp");
  const Matrix weight = load_weight(W, "W");
  return by_hessian(weight, load_hessian(H, weight.cols(), "H"), grid, actorder, damp, observer);
} catch (...) {
  rethrow_as_error("quantize_layer_gptq");
}

GPTQResult quantize_rtn(const ArrayView& W, int bits, int64_t group_size, bool sym) try {
  const ThreadCount thread_count;
  const Grid grid = layer_grid(bits, group_size, sym);
  return by_rounding(load_weight(W, "W"), grid, nullptr);
} catch (...) {
  rethrow_as_error("quantize_rtn");
}

GPTQComparison compare_gptq_vs_rtn(const ArrayView& W, const ArrayView& H, int bits, int64_t group_size,
                                   const Observer& observer) try {
  const ThreadCount thread_count;
  const Grid grid = layer_grid(bits, group_size, true);
  const Matrix weight = load_weight(W, "W");
  const Matrix hessian = load_hessian(H, weight.cols(), "H");
  const GPTQResult rtn = by_rounding(weight, grid, &hessian);
  const GPTQResult gptq = by_hessian(weight, hessian, grid, true, 0.01, observer);
  GPTQComparison out;
  const auto size = static_cast<double>(weight.size());
  out.rtn_mse = rtn.quantization_error / size;
  out.gptq_mse = gptq.quantization_error / size;
  out.rtn_total_error = rtn.total_error;
  out.gptq_total_error = gptq.total_error;
  if (gptq.total_error > 0) {
    out.improvement_ratio = rtn.total_error / gptq.total_error;
  } else if (rtn.total_error > 0) {
    out.improvement_ratio = HUGE_VAL;
  }
  return out;
} catch (...) {
  rethrow_as_error("compare_gptq_vs_rtn");
}

PackedGPTQ pack_gptq_int4(const ArrayView& Q, const ArrayView& scales, const std::optional<ArrayView>& zeros,
                          int64_t group_size, const std::vector<int64_t>& perm) try {
  const ThreadCount thread_count;
  expect_float(Q, "Q");
  expect_shape(Q, "Q", {-1, -1}, "[N, K]");
  layer_grid(4, group_size, true);
  const int64_t n = Q.shape[0];
  const int64_t k = Q.shape[1];
  const int64_t group = group_size == -1 ? k : group_size;
  const int64_t groups = (k + group - 1) / group;
  expect_float(scales, "scales");
  expect_shape(scales, "scales", {groups, n}, "[G, N]");
  const Matrix values = load_matrix(Q, "Q");
  const Matrix steps = load_matrix(scales, "scales");
  Matrix offsets(groups, n);
  std::fill_n(offsets.data(), offsets.size(), 8.0f);
  if (zeros) {
    expect_float(*zeros, "zeros");
    expect_shape(*zeros, "zeros", {groups, n}, "[G, N]");
    offsets = load_matrix(*zeros, "zeros");
  }
  PackedGPTQ out{Array(ElementType::kU32, {n, (k + 7) / 8}), Array(ElementType::kF16, {groups, n}),
                 Array(ElementType::kF16, {groups, n})};
  for (int64_t i = 0; i < groups * n; ++i) {
    const float s = steps.data()[i];
    const float z = offsets.data()[i];
    if (!(std::fabs(s) >= kLeastScale && std::fabs(s) <= kLargestScale)) {
      throw NumericError(fmt::format("scales: expected sizes of {} to {}, which float16 holds, found {} at [{}, {}]",
                                     kLeastScale, kLargestScale, s, i / n, i % n));
    }
    if (z != std::rint(z) || z < 0 || z > 15) {
      throw ArgumentError(fmt::format("zeros: expected integers 0 to 15, found {} at [{}, {}]", z, i / n, i % n));
    }
    out.scales.as<uint16_t>()[i] = f32_to_f16(s);
    out.zeros.as<uint16_t>()[i] = f32_to_f16(z - 8);
  }
  const std::vector<int64_t> group_of = groups_of(perm, k, group);
  const int64_t words = (k + 7) / 8;
  parallel_for((n + kRows - 1) / kRows, [&](int64_t tile) {
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, n); ++r) {
      for (int64_t c = 0; c < words * 8; ++c) {
        const int64_t g = group_of[static_cast<size_t>(std::min(c, k - 1))];
        const float zero = offsets(g, r);
        // Columns that pad K stand for weights of 0.
        const float wanted = (c < k ? values(r, c) / steps(g, r) : 0.0f) + zero;
        const float code = std::rint(wanted);
        if (!(code >= 0 && code <= 15) || std::fabs(wanted - code) > kOffGrid) {
          throw ArgumentError(
              fmt::format("Q: expected (code - zero) * scale with codes 0 to 15, found {} at [{}, {}] where the scale "
                          "is {} and the "
                          "zero {}; are scales, group_size and perm those of Q?",
                          values(r, c), r, c, steps(g, r), zero));
        }
        out.packed.as<uint32_t>()[r * words + c / 8] |= static_cast<uint32_t>(code) << (4 * (c % 8));
      }
    }
  });
  return out;
} catch (...) {
  rethrow_as_error("pack_gptq_int4");
}

GPTQQuantizer::GPTQQuantizer(int bits, int64_t group_size, bool sym, bool actorder, double damp)
    : bits_(bits), group_size_(group_size), sym_(sym), actorder_(actorder), damp_(damp) {
  layer_grid(bits, group_size, sym);
  expect_damping(damp, "damp");
}

GPTQResult GPTQQuantizer::quantize_weight(const ArrayView& W, const ArrayView& H, const Observer& observer) const try {
  const ThreadCount thread_count;
  return quantize_layer_gptq(W, H, bits_, group_size_, sym_, actorder_, damp_, observer);
} catch (...) {
  rethrow_as_error("quantize_weight");
}

}  // namespace metal_marlin
