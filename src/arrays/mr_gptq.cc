#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/mr_gptq.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/hadamard.h"
#include "pack/bits/nibble_rows.h"
#include "pack/group_arrays.h"
#include "quantize/errors.h"
#include "quantize/levels.h"

namespace metal_marlin {
namespace {

constexpr int64_t kStages = 3;

// Words of a row of codes.
int64_t words_for(int64_t codes) {
  return codes / kFp4PerU32 + (codes % kFp4PerU32 == 0 ? 0 : 1);
}

constexpr std::array<std::pair<const char*, LevelRange>, 4> kScaleMethods = {{{"maxabs", LevelRange::kMaxabs},
                                                                              {"mse_grid", LevelRange::kMse},
                                                                              {"mse_newton", LevelRange::kDescent},
                                                                              {"hessian", LevelRange::kHessian}}};

LevelRange parse_scale_method(const std::string& name) {
  for (const auto& [known, range] : kScaleMethods) {
    if (name == known) return range;
  }
  throw ArgumentError(
      "scale_method",
      fmt::format("scale_method: expected maxabs, mse_grid, mse_newton or hessian, found \"{}\"", name));
}

const LevelTable& table_of(QuantizationFormat format) {
  switch (format) {
    case QuantizationFormat::kFP4:
      return fp4_levels();
    case QuantizationFormat::kINT4:
      return int4_levels();
    case QuantizationFormat::kNF4:
      break;
  }
  return nf4_levels();
}

uint8_t code_of_zero(const LevelTable& table) {
  const auto zero = std::find(table.levels.begin(), table.levels.end(), 0.0f);
  return table.codes[static_cast<size_t>(zero - table.levels.begin())];
}

struct Rounding {
  QuantizationFormat format;
  LevelRange range;
  int64_t group_size;
  bool actorder;
  double damping;
};

LevelTensor round_layer(const Matrix& weight, const Matrix* hessian, const Rounding& how, const char* name,
                        const Observer& observer) {
  const LevelTable& table = table_of(how.format);
  report_stage(observer, "search scales", 0, kStages);
  const LevelScales scales = level_scales(weight, table, how.group_size, how.range, hessian);
  require_held_scales(scales.clamped, name);
  report_stage(observer, "round", 1, kStages);
  if (hessian == nullptr) return round_to_levels(weight, scales, table);
  GptqOptions options;
  options.act_order = how.actorder;
  options.damping = how.damping;
  options.relative_damping = false;
  return gptq_to_levels(weight, make_gptq_factor(*hessian, options), scales, table);
}

double excess_kurtosis(const Matrix& weight) {
  const auto count = static_cast<double>(weight.size());
  double mean = 0;
  for (const float w : weight.values()) mean += w;
  mean /= count;
  double second = 0;
  double fourth = 0;
  for (const float w : weight.values()) {
    const double square = (w - mean) * (w - mean);
    second += square;
    fourth += square * square;
  }
  return second > 0 ? fourth * count / (second * second) - 3 : 0;
}

void expect_words(const ArrayView& packed) {
  expect_type(packed, "packed", ElementType::kU32);
  expect_shape(packed, "packed", {-1, -1}, "[rows, words]");
}

// Converts scales [groups, rows] or [rows, groups] to float16 bits [rows, groups].
std::vector<uint16_t> load_scales(const ArrayView& scales, int64_t rows, int64_t groups, bool groups_first) {
  expect_float(scales, "scales");
  expect_shape(scales, "scales", groups_first ? std::vector<int64_t>{groups, rows} : std::vector<int64_t>{rows, groups},
               groups_first ? "[G, N]" : "[N, G]");
  const Matrix values = load_matrix(scales, "scales");
  std::vector<uint16_t> out(static_cast<size_t>(rows * groups));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const float s = groups_first ? values(g, r) : values(r, g);
      const uint16_t bits = f32_to_f16(s);
      if (f16_to_f32(bits) != s) {
        throw NumericError(
            fmt::format("scales: expected values that float16 holds, found {} of row {}, group {}", s, r, g));
      }
      out[static_cast<size_t>(r * groups + g)] = bits;
    }
  }
  return out;
}

}  // namespace

const char* quantization_format_name(QuantizationFormat format) noexcept {
  switch (format) {
    case QuantizationFormat::kFP4:
      return "fp4";
    case QuantizationFormat::kINT4:
      return "int4";
    case QuantizationFormat::kNF4:
      break;
  }
  return "nf4";
}

QuantizationFormat parse_quantization_format(const std::string& name) try {
  for (const QuantizationFormat f : {QuantizationFormat::kFP4, QuantizationFormat::kINT4, QuantizationFormat::kNF4}) {
    if (name == quantization_format_name(f)) return f;
  }
  throw ArgumentError("format", fmt::format("format: expected fp4, int4 or nf4, found \"{}\"", name));
} catch (...) {
  rethrow_as_error("parse_quantization_format");
}

std::vector<float> quantization_levels(QuantizationFormat format) try {
  std::vector<float> levels = table_of(format).values;
  if (format == QuantizationFormat::kFP4) levels[8] = -0.0f;
  return levels;
} catch (...) {
  rethrow_as_error("quantization_levels");
}

FP4GPTQQuantizer::FP4GPTQQuantizer(int64_t group_size, bool actorder, double damp_factor,
                                   const std::string& scale_method)
    : group_size_(group_size), actorder_(actorder), damp_factor_(damp_factor), scale_method_(scale_method) {
  expect_group_size(group_size, true);
  expect_damping(damp_factor, "damp_factor");
  parse_scale_method(scale_method);
}

FP4GPTQResult FP4GPTQQuantizer::quantize_weight(const ArrayView& W, const std::optional<ArrayView>& H,
                                                const Observer& observer) const try {
  const ThreadCount thread_count;
  const Matrix weight = load_weight(W, "W");
  const Rounding how{QuantizationFormat::kFP4, parse_scale_method(scale_method_), group_size_, actorder_, damp_factor_};
  if (how.range == LevelRange::kHessian && !H)
    throw ArgumentError("H", "H: expected one, as scale_method \"hessian\" needs it, found none");
  Matrix hessian;
  if (H) hessian = load_hessian(*H, weight.cols(), "H");
  const LevelTensor q = round_layer(weight, H ? &hessian : nullptr, how, "W", observer);
  report_stage(observer, "measure", 2, kStages);
  const int64_t n = q.out_features;
  const int64_t k = q.in_features;
  const int64_t groups = q.groups();
  FP4GPTQResult out;
  out.quant_indices = Array(ElementType::kI8, {k, n});
  auto* codes = out.quant_indices.as<uint8_t>();
  transpose_array(q.codes.data(), n, k, codes);
  out.packed = Array(ElementType::kU32, {k, words_for(n)});
  pack_nibble_rows(codes, k, n, {}, out.packed.as<uint32_t>());
  out.scales = Array(ElementType::kF16, {groups, n});
  transpose_array(q.scales.data(), n, groups, out.scales.as<uint16_t>());
  const ValueErrors errors = value_errors(weight, dequantize(q, fp4_levels()), H ? &hessian : nullptr);
  out.mse = errors.squared_error / static_cast<double>(weight.size());
  out.output_error = measured(errors.output_error);
  out.in_features = k;
  out.out_features = n;
  out.group_size = q.group_size;
  return out;
} catch (...) {
  rethrow_as_error("quantize_weight");
}

Array dequantize_fp4_gptq(const ArrayView& packed, const ArrayView& scales, int64_t out_features, int64_t group_size,
                          ElementType type) try {
  const ThreadCount thread_count;
  expect_words(packed);
  expect_group_size(group_size, true);
  const int64_t k = packed.shape[0];
  if (out_features < 1 || words_for(out_features) != packed.shape[1]) {
    throw ArgumentError("packed", fmt::format("packed: expected [K, ceil(N / 8)] words for N = {}, found [{}, {}]",
                                              out_features, k, packed.shape[1]));
  }
  LevelTensor q{out_features, k, group_size == -1 ? k : std::min(group_size, k), {}, {}};
  q.scales = load_scales(scales, out_features, q.groups(), true);
  q.codes.resize(static_cast<size_t>(out_features * k));
  const std::vector<uint8_t> codes = unpack_nibble_rows(load_words(packed).data(), k, out_features);
  transpose_array(codes.data(), k, out_features, q.codes.data());
  return to_type(dequantize(q, fp4_levels()), type, "scales");
} catch (...) {
  rethrow_as_error("dequantize_fp4_gptq");
}

MRGPTQQuantizer::MRGPTQQuantizer(int bits, QuantizationFormat format, int64_t group_size, bool use_hadamard,
                                 int64_t hadamard_block_size, std::optional<double> hadamard_kurtosis_threshold,
                                 bool actorder, double percdamp)
    : format_(format),
      group_size_(group_size),
      use_hadamard_(use_hadamard),
      hadamard_block_size_(hadamard_block_size),
      threshold_(hadamard_kurtosis_threshold),
      actorder_(actorder),
      percdamp_(percdamp) {
  if (bits != 4) throw ArgumentError("bits", fmt::format("bits: expected 4, found {}", bits));
  expect_group_size(group_size, true);
  hadamard_blocks(1, hadamard_block_size);
  if (threshold_ && !std::isfinite(*threshold_)) {
    throw ArgumentError("hadamard_kurtosis_threshold",
                        fmt::format("hadamard_kurtosis_threshold: expected a finite number, found {}", *threshold_));
  }
  expect_damping(percdamp, "percdamp");
}

MRGPTQResult MRGPTQQuantizer::quantize_layer(const ArrayView& weights, const std::optional<ArrayView>& hessian,
                                             std::optional<bool> use_hadamard, const Observer& observer) const try {
  const ThreadCount thread_count;
  const Matrix weight = load_weight(weights, "weights");
  Matrix h;
  if (hessian) h = load_hessian(*hessian, weight.cols(), "hessian");
  MRGPTQResult out;
  out.kurtosis = excess_kurtosis(weight);
  const bool rotate = use_hadamard.value_or(use_hadamard_) && !(threshold_ && out.kurtosis < *threshold_);
  Matrix moved;
  Matrix moved_hessian;
  if (rotate) {
    moved = weight.clone();
    rotate_columns(moved, hadamard_block_size_);
    if (hessian) {
      moved_hessian = h.clone();
      rotate_hessian(moved_hessian, hadamard_block_size_);
      // After the rotation, what was 0 is 0 only up to rounding.
      for (int64_t i = 0; i < moved_hessian.rows(); ++i) moved_hessian(i, i) = std::max(moved_hessian(i, i), 0.0f);
    }
  }
  const Rounding how{format_, hessian ? LevelRange::kHessian : LevelRange::kMse, group_size_, actorder_, percdamp_};
  const LevelTensor q = round_layer(rotate ? moved : weight, hessian ? (rotate ? &moved_hessian : &h) : nullptr, how,
                                    "weights", observer);
  report_stage(observer, "measure", 2, kStages);
  const int64_t n = q.out_features;
  const int64_t k = q.in_features;
  const LevelTable& table = table_of(format_);
  out.packed = Array(ElementType::kU32, {n, words_for(k)});
  pack_nibble_rows(q.codes.data(), n, k, std::vector<uint8_t>(static_cast<size_t>(n), code_of_zero(table)),
                   out.packed.as<uint32_t>());
  out.scales = copy_array(ElementType::kF16, {n, q.groups()}, q.scales.data());
  out.format = format_;
  out.in_features = k;
  out.out_features = n;
  out.group_size = q.group_size;
  out.hadamard_block_size = rotate ? hadamard_block_size_ : 0;
  Matrix rounded = dequantize(q, table);
  if (rotate) rotate_columns(rounded, hadamard_block_size_);
  const ValueErrors errors = value_errors(weight, rounded, hessian ? &h : nullptr);
  out.rmse = std::sqrt(errors.squared_error / static_cast<double>(weight.size()));
  out.max_error = errors.largest_error;
  out.relative_error = errors.weight_error;
  out.output_error = measured(errors.output_error);
  return out;
} catch (...) {
  rethrow_as_error("quantize_layer");
}

Array mr_gptq_dequantize(const ArrayView& packed, const ArrayView& scales, QuantizationFormat format,
                         int64_t in_features, int64_t group_size, int64_t hadamard_block_size, bool original_basis,
                         ElementType type) try {
  const ThreadCount thread_count;
  expect_words(packed);
  expect_group_size(group_size, true);
  const int64_t n = packed.shape[0];
  if (in_features < 1 || words_for(in_features) != packed.shape[1]) {
    throw ArgumentError("packed", fmt::format("packed: expected [N, ceil(K / 8)] words for K = {}, found [{}, {}]",
                                              in_features, n, packed.shape[1]));
  }
  if (hadamard_block_size != 0) hadamard_blocks(in_features, hadamard_block_size);
  LevelTensor q{n, in_features, group_size == -1 ? in_features : std::min(group_size, in_features), {}, {}};
  q.scales = load_scales(scales, n, q.groups(), false);
  q.codes = unpack_nibble_rows(load_words(packed).data(), n, in_features);
  Matrix values = dequantize(q, table_of(format));
  if (hadamard_block_size != 0 && original_basis) rotate_columns(values, hadamard_block_size);
  return to_type(values, type, "scales");
} catch (...) {
  rethrow_as_error("mr_gptq_dequantize");
}

Array hadamard_rotate(const ArrayView& matrix, int64_t block_size) try {
  const ThreadCount thread_count;
  Matrix m = load_weight(matrix, "matrix");
  rotate_columns(m, block_size);
  return to_type(m, ElementType::kF32, "matrix");
} catch (...) {
  rethrow_as_error("hadamard_rotate");
}

}  // namespace metal_marlin
