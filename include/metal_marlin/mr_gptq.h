// 4 bits per weight on tables of levels (FP4, NF4, INT4), by GPTQ (arXiv 2210.17323), with or without a Hadamard
// rotation of the input channels before (MR-GPTQ, arXiv 2509.23202); Hessians of many layers; the functions of
// GPTQMetal.
//
// Shapes: K = in_features, N = out_features, G = groups; weights W [N, K] as a checkpoint stores them, Hessians H [K,
// K], symmetric, of which any positive multiple gives the same codes. Groups are static: column k belongs to group k /
// group_size whatever the order of rounding, so a reader of the codes needs nothing else. group_size -1: one group per
// row; the last group may be short. Scales are rounded to float16 before codes are chosen.
//
// All functions check their arguments: ArgumentError names the argument, what was expected and what was found;
// NumericError is thrown for NaN and Inf. Inputs may be of float16, bfloat16, float32 or float64 and of any strides.
// The result does not depend on the number of threads.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// What a 4-bit code stands for, times the scale of its group.
enum class QuantizationFormat : uint8_t {
  kFP4,   // E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}, code = 8 sign + magnitude
  kINT4,  // code - 8
  kNF4,   // the 16 levels of QLoRA (arXiv 2305.14314), ascending, -1 to 1
};
METAL_MARLIN_API const char* quantization_format_name(QuantizationFormat format) noexcept;  // "fp4", "int4", "nf4"
METAL_MARLIN_API QuantizationFormat
parse_quantization_format(const std::string& name);                                  // ArgumentError for another name
METAL_MARLIN_API std::vector<float> quantization_levels(QuantizationFormat format);  // [16] by code (FP4: code 8 is -0)

struct FP4GPTQResult {
  Array packed;         // uint32 [K, ceil(N / 8)]: bits 4i..4i+3 of packed[k, r] hold the code of output 8r + i
  Array scales;         // float16 [G, N]
  Array quant_indices;  // int8 [K, N]: the codes 0..15, unpacked
  double mse = 0;       // mean squared error of the weights, of what is stored
  // sqrt(tr(E H E^T) / tr(W H W^T)), E the errors of the weights; empty: no H was given.
  std::optional<double> output_error;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t group_size = 0;  // explicit

  Array dequantize(ElementType type = ElementType::kF16) const;  // [N, K], by dequantize_fp4_gptq
};

// GPTQ onto FP4. scale_method: with "maxabs" the largest weight gets 6. "mse_grid" tries 41 multiples 0.5 .. 1.5 of
// that scale and takes the one with the least squared error. "mse_newton" goes on from there: it takes the scale that
// fits the chosen levels best (one Newton step reaches the minimum of that quadratic problem) and chooses the levels
// again. "hessian" takes, of the 41, the one with the least e H_gg e^T.
class METAL_MARLIN_API FP4GPTQQuantizer {
 public:
  explicit FP4GPTQQuantizer(int64_t group_size = 128, bool actorder = true, double damp_factor = 0.01,
                            const std::string& scale_method = "mse_grid");
  // Without H: plain rounding.
  FP4GPTQResult quantize_weight(const ArrayView& W, const std::optional<ArrayView>& H = {},
                                const Observer& observer = {}) const;

 private:
  int64_t group_size_;
  bool actorder_;
  double damp_factor_;
  std::string scale_method_;
};
// Returns [N, K] of `type`. Throws NumericError for a value that it cannot hold.
METAL_MARLIN_API Array dequantize_fp4_gptq(const ArrayView& packed, const ArrayView& scales, int64_t out_features,
                                           int64_t group_size, ElementType type = ElementType::kF16);

inline Array FP4GPTQResult::dequantize(ElementType type) const {
  return dequantize_fp4_gptq(packed, scales, out_features, group_size, type);
}

struct MRGPTQResult {
  Array packed;  // uint32 [N, ceil(K / 8)]: bits 4i..4i+3 of packed[n, r] hold the code of column 8r + i; what pads is
                 // level 0
  Array scales;  // float16 [N, G]
  QuantizationFormat format = QuantizationFormat::kFP4;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t group_size = 0;           // explicit
  int64_t hadamard_block_size = 0;  // the codes stand for W R, see below; 0: not rotated
  double kurtosis = 0;              // excess kurtosis of the weights, 0 for normal ones
  // Errors in the original basis, of what is stored.
  double rmse = 0;
  double max_error = 0;
  double relative_error = 0;           // |E| / |W| (Frobenius)
  std::optional<double> output_error;  // as FP4GPTQResult::output_error

  // [N, K] in the original basis, by mr_gptq_dequantize.
  Array dequantize(ElementType type = ElementType::kF32) const;
};

// Quantizes W R by GPTQ with the Hessian R H R of the rotated inputs. R is block-diagonal of Sylvester's Hadamard
// matrices over the square root of their size, symmetric and its own inverse: W = (W R) R, and x W^T = (x R)(W R)^T.
// Blocks have hadamard_block_size channels (a power of two). The rest of K is divided into powers of two, largest
// first. Scales of groups have the least e H_gg e^T where a Hessian is given. Without one they have the least squared
// error, and rounding is plain.
class METAL_MARLIN_API MRGPTQQuantizer {
 public:
  // bits: 4. hadamard_kurtosis_threshold: only layers whose excess kurtosis is at least this are rotated. percdamp:
  // share of the mean of H's diagonal that is added to it, 0 to 1.
  explicit MRGPTQQuantizer(int bits = 4, QuantizationFormat format = QuantizationFormat::kFP4, int64_t group_size = 128,
                           bool use_hadamard = true, int64_t hadamard_block_size = 64,
                           std::optional<double> hadamard_kurtosis_threshold = {}, bool actorder = true,
                           double percdamp = 0.01);
  // use_hadamard, when given, replaces the constructor's.
  MRGPTQResult quantize_layer(const ArrayView& weights, const std::optional<ArrayView>& hessian = {},
                              std::optional<bool> use_hadamard = {}, const Observer& observer = {}) const;

 private:
  QuantizationFormat format_;
  int64_t group_size_;
  bool use_hadamard_;
  int64_t hadamard_block_size_;
  std::optional<double> threshold_;
  bool actorder_;
  double percdamp_;
};
// Returns the weights [N, K] in the original basis, or with original_basis false W R, as the codes have it.
// hadamard_block_size 0: not rotated.
METAL_MARLIN_API Array mr_gptq_dequantize(const ArrayView& packed, const ArrayView& scales, QuantizationFormat format,
                                          int64_t in_features, int64_t group_size, int64_t hadamard_block_size,
                                          bool original_basis = true, ElementType type = ElementType::kF32);

inline Array MRGPTQResult::dequantize(ElementType type) const {
  return mr_gptq_dequantize(packed, scales, format, in_features, group_size, hadamard_block_size, true, type);
}

// Returns [rows, features] R in float32, with R as above. Applied twice it gives the original.
METAL_MARLIN_API Array hadamard_rotate(const ArrayView& matrix, int64_t block_size = 64);

// Collects sums of x^T x, in float64, of the inputs of any number of layers by name. Each takes K^2 numbers, however
// many tokens there are. A batch is added whole or, when an error is thrown, not at all; meanwhile it takes K^2 numbers
// more. Thread-safe.
class METAL_MARLIN_API HessianCollector {
 public:
  explicit HessianCollector(int64_t in_features = 0);  // > 0: of every layer; 0: each layer's first batch decides
  HessianCollector(HessianCollector&&) noexcept;
  HessianCollector& operator=(HessianCollector&&) noexcept;
  ~HessianCollector();

  void accumulate(const ArrayView& x, const std::string& layer = "");  // [tokens, K] or [B, T, K]
  // Returns float64 [K, K]: x^T x / tokens, with damp times the mean of its diagonal added to the diagonal. Throws
  // ArgumentError for a layer without tokens.
  Array get_hessian(double damp = 0.01, const std::string& layer = "") const;
  Array get_raw_hessian(const std::string& layer = "") const;  // float64 [K, K]: the sum
  int64_t n_samples(const std::string& layer = "") const;      // tokens; 0 for an unknown layer
  std::vector<std::string> layer_names() const;                // sorted
  void merge(const HessianCollector& other);                   // sums and tokens of all its layers
  void reset();
  uint64_t memory_bytes() const;  // of the sums

 private:
  struct METAL_MARLIN_LOCAL State;
  std::unique_ptr<State> state_;
};

// Has the interface of an implementation on Apple's GPUs, but computes on the CPU. A GPU version will have the same
// functions.
class METAL_MARLIN_API GPTQMetal {
 public:
  struct Quantized {
    Array weight;  // float32 [N, K]: integer * scales[k / group, n]
    Array scales;  // float32 [G, N], values that float16 holds
    Array zeros;   // float32 [G, N], all 0: the grid is symmetric
  };
  Array compute_hessian(const ArrayView& activations, bool normalize = true) const;  // as metal_marlin::compute_hessian
  // Returns float64 [K, K]: the lower triangular L with L L^T = H + regularization I. Throws NumericError unless that
  // is positive definite.
  Array cholesky_decompose(const ArrayView& H, double regularization = 1e-6) const;
  // GPTQ with act order on symmetric integers of `bits` (2, 3, 4 or 8), static groups of `blocksize` columns.
  Quantized quantize_weight_gptq(const ArrayView& weight, const ArrayView& H, int bits = 4, int64_t blocksize = 128,
                                 double percdamp = 0.01) const;
};
METAL_MARLIN_API Array compute_hessian_metal(const ArrayView& activations, bool normalize = true);

}  // namespace metal_marlin
