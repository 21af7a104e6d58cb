#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/mr_gptq.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "pack/bits/nibble_rows.h"
#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRows = 64;      // of the tiles of weights
constexpr float kOffGrid = 0.05f;  // largest distance of a value from the nearest code, in steps; float16 scales move
                                   // the largest value by 0.004
constexpr int64_t kStages = 3;

Grid layer_grid(int bits, int64_t group_size, bool sym, const char* group_name = "group_size") {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    throw ArgumentError("bits", fmt::format("bits: expected 2, 3, 4 or 8, found {}", bits));
  }
  expect_group_size(group_size, true, group_name);
  return {bits, sym, group_size};
}

// Columns of `weight` and q are in the order in which groups are formed; perm gives the original order.
GPTQResult result_of(const Matrix& weight, const QuantizedTensor& q, std::span<const int32_t> perm,
                     const Matrix* hessian) {
  GPTQResult result;
  const int64_t n = q.out_features;
  const int64_t k = q.in_features;
  const int64_t groups = q.groups();
  const LinearErrors errors = linear_errors(weight, q, hessian);
  result.quantization_error = errors.squared_error;
  result.total_error = errors.squared_output_error;
  result.perm.assign(perm.begin(), perm.end());
  result.Q = Array(ElementType::kF32, {n, k});
  result.scales = Array(ElementType::kF32, {groups, n});
  if (!q.symmetric) result.zeros = Array(ElementType::kF32, {groups, n});
  const Matrix values = dequantize(q);
  parallel_for((n + kRows - 1) / kRows, [&](int64_t tile) {
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, n); ++r) {
      float* to = result.Q.as<float>() + r * k;
      for (int64_t c = 0; c < k; ++c) to[perm.empty() ? c : perm[static_cast<size_t>(c)]] = values(r, c);
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>(r * groups + g);
        result.scales.as<float>()[g * n + r] = q.scale(at);
        if (!q.symmetric) result.zeros.as<float>()[g * n + r] = static_cast<float>(q.zeros[at]);
      }
    }
  });
  return result;
}

// How columns are rounded, and which form a group.
enum class Order : uint8_t {
  kColumns,  // by index, groups of neighbours
  kStatic,   // by the Hessian's diagonal, groups of neighbours (as in the pipeline)
  kGrouped   // by the Hessian's diagonal, groups in that order: GPTQResult::perm
};

GPTQResult by_hessian(Matrix weight, Matrix hessian, const Grid& grid, Order order, double damp, const char* name,
                      const Observer& observer) {
  std::vector<int32_t> perm;
  if (order == Order::kGrouped) perm = sort_columns(weight, hessian);
  report_stage(observer, "search ranges", 0, kStages);
  RangeOptions range;
  range.method = RangeChoice::kGram;
  const GroupRanges ranges = group_ranges(weight, grid, range, &hessian);
  require_held_scales(ranges.counts.clamped, name);
  report_stage(observer, "round", 1, kStages);
  GptqOptions options;
  options.act_order = order == Order::kStatic;
  options.damping = damp;
  options.relative_damping = false;  // these functions promise a share of the mean
  const QuantizedTensor q = quantize_gptq(weight, make_gptq_factor(hessian, options), ranges, grid);
  report_stage(observer, "measure", 2, kStages);
  return result_of(weight, q, perm, &hessian);
}

GPTQResult by_rounding(const Matrix& weight, const Grid& grid, const Matrix* hessian) {
  const GroupRanges ranges = group_ranges(weight, grid);
  require_held_scales(ranges.counts.clamped, "W");
  return result_of(weight, metal_marlin::quantize_rtn(weight, ranges, grid), {}, hessian);
}

// Returns the group of each column. Throws ArgumentError unless perm is empty or a permutation.
std::vector<int64_t> groups_of(const std::vector<int64_t>& perm, int64_t k, int64_t group) {
  std::vector<int64_t> groups(static_cast<size_t>(k), -1);
  if (!perm.empty() && static_cast<int64_t>(perm.size()) != k) {
    throw ArgumentError("perm",
                        fmt::format("perm: expected {} as Q has columns, found {}", counted(k, "number"), perm.size()));
  }
  for (int64_t j = 0; j < k; ++j) {
    const int64_t column = perm.empty() ? j : perm[static_cast<size_t>(j)];
    if (column < 0 || column >= k || groups[static_cast<size_t>(column)] >= 0) {
      throw ArgumentError("perm",
                          fmt::format("perm: expected each of 0 .. {} once, found {} at [{}]", k - 1, column, j));
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
  Matrix weight = load_weight(W, "W");
  Matrix hessian = load_hessian(H, weight.cols(), "H");
  return by_hessian(std::move(weight), std::move(hessian), grid, actorder ? Order::kGrouped : Order::kColumns, damp,
                    "W", observer);
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
  Matrix weight = load_weight(W, "W");
  Matrix hessian = load_hessian(H, weight.cols(), "H");
  const auto size = static_cast<double>(weight.size());
  const GPTQResult rtn = by_rounding(weight, grid, &hessian);
  const GPTQResult gptq = by_hessian(std::move(weight), std::move(hessian), grid, Order::kGrouped, 0.01, "W", observer);
  GPTQComparison out;
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
      throw ArgumentError("zeros",
                          fmt::format("zeros: expected integers 0 to 15, found {} at [{}, {}]", z, i / n, i % n));
    }
    out.scales.as<uint16_t>()[i] = f32_to_f16(s);
    out.zeros.as<uint16_t>()[i] = f32_to_f16(z - 8);
  }
  const std::vector<int64_t> group_of = groups_of(perm, k, group);
  std::vector<uint8_t> codes(static_cast<size_t>(n * k));
  parallel_for((n + kRows - 1) / kRows, [&](int64_t tile) {
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, n); ++r) {
      for (int64_t c = 0; c < k; ++c) {
        const int64_t g = group_of[static_cast<size_t>(c)];
        const float zero = offsets(g, r);
        const float wanted = values(r, c) / steps(g, r) + zero;
        const float code = std::rint(wanted);
        if (!(code >= 0 && code <= 15) || std::fabs(wanted - code) > kOffGrid) {
          throw ArgumentError(
              "Q",
              fmt::format("Q: expected (code - zero) * scale with codes 0 to 15, found {} at [{}, {}] where the scale "
                          "is {} and the "
                          "zero {}; are scales, group_size and perm those of Q?",
                          values(r, c), r, c, steps(g, r), zero));
        }
        codes[static_cast<size_t>(r * k + c)] = static_cast<uint8_t>(code);
      }
    }
  });
  // Columns that pad K stand for weights of 0 in the group of the last column.
  std::vector<uint8_t> padding(static_cast<size_t>(n));
  for (int64_t r = 0; r < n; ++r) padding[static_cast<size_t>(r)] = static_cast<uint8_t>(offsets(group_of.back(), r));
  pack_nibble_rows(codes.data(), n, k, padding, out.packed.as<uint32_t>());
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

GPTQMetal::Quantized GPTQMetal::quantize_weight_gptq(const ArrayView& weight, const ArrayView& H, int bits,
                                                     int64_t blocksize, double percdamp) const try {
  const ThreadCount thread_count;
  const Grid grid = layer_grid(bits, blocksize, true, "blocksize");
  expect_damping(percdamp, "percdamp");
  Matrix w = load_weight(weight, "weight");
  Matrix h = load_hessian(H, w.cols(), "H");
  GPTQResult r = by_hessian(std::move(w), std::move(h), grid, Order::kStatic, percdamp, "weight", {});
  Array zeros(ElementType::kF32, r.scales.shape);
  return {std::move(r.Q), std::move(r.scales), std::move(zeros)};
} catch (...) {
  rethrow_as_error("quantize_weight_gptq");
}

}  // namespace metal_marlin
