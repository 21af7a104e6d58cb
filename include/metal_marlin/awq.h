// AWQ of one matrix at a time, from arrays to arrays.
//
// Shapes: K = in_features, N = out_features, G = groups; weights are [K, N], as x W computes (a checkpoint's [out, in]
// must be transposed). With 4-bit codes c in 0..15, group g = k / group_size:
//
//   W'[k, n] = (c[k, n] - 8 - zeros[g, n]) * scales[g, n] / q_scale[k]          float32, in this order
//
// q_scale belongs to input channels. The weights were multiplied by it before they were rounded, and are divided by it
// here. Only channels that hold many salient weights get a q_scale above 1. Its exponent is the one of a grid whose
// output error |X (W - W')| is least, as far as a search upwards goes that ends where the error rises. That error is
// computed on up to 256 output channels, from X's Gram matrix. Ranges of groups are searched by the blocks of the Gram
// matrix that belong to them.
//
// All functions check their arguments: ArgumentError names the argument, what was expected and what was found;
// NumericError is thrown for NaN and Inf. Inputs may be of float16, bfloat16, float32 or float64 and of any strides.
// Thread-safe; the result does not depend on the number of threads.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

inline constexpr double kAwqSalientRatio = 0.01;
inline constexpr int64_t kAwqDefaultGroupSize = 128;
inline constexpr int kAwqQuantBits = 4;
inline constexpr int kAwqMaxInt4 = 7;
inline constexpr int kFp4PerU32 = 8;

// What a reader of the arrays of an AWQResult needs, and how they were made.
struct AWQMeta {
  int64_t in_features = 0;   // K
  int64_t out_features = 0;  // N
  int64_t group_size = 0;
  std::string quant_type = "awq_int4";
  int64_t padded_in_features = 0;  // K rounded up to whole groups and words; Q has an eighth as many rows. 0: not known
  std::string scheme = "sym";      // "sym": zeros are 0; "asym"
  // 8, but 7 for files of the earlier numpy implementation of these functions. These have a q_scale per output channel
  // and zeros in units of weights: W' = (c - 7) * scales / q_scale[n] + zeros.
  int code_offset = 8;

  // |X (W' - W)| / |X W| (Frobenius), by the Gram matrix of X; empty: not known.
  std::optional<double> output_error;
  std::optional<double> weight_error;  // |W' - W| / |W|; empty: not known
  double exponent = 0;                 // q_scale = max(statistic / median, 1)^exponent
  int64_t salient_weights = 0;         // round(salient_ratio * K * N)
  int64_t salient_channels = 0;        // input channels that they chose
  int64_t raised_scales = 0;           // groups whose scale lay below the least normal float16 and was raised to it
};

struct AWQResult {
  Array Q;                        // uint32 [padded K / 8, N]: bits 4i..4i+3 of Q[r, n] hold the code of row 8r + i
  Array scales;                   // float16 [G, N]
  Array zeros;                    // float16 [G, N], integers -8..7
  Array q_scale;                  // float16 [K]
  double quantization_error = 0;  // sum of squared errors of the stored weights
  double salient_ratio = 0;       // the argument
  AWQMeta meta;

  Array dequantize(ElementType type = ElementType::kF16) const;  // [K, N], by awq_dequantize
};

// Returns float32 [K] for activations [B, T, K] or [tokens, K]: for each channel the mean or maximum of |x|, or the
// root mean square ("mean", "max", "rms"). Sums are in float64. Throws ArgumentError for another method.
METAL_MARLIN_API Array compute_activation_stats(const ArrayView& activations, const std::string& method = "rms");

struct SalientMask {
  Array mask;        // bool [K, N]: exactly round(salient_ratio * K * N) are true (halves up), ties by index
  Array importance;  // float32 [K]: statistic / largest statistic
};
// Salience of a weight: (stat_k / max stat) * (|w_kn| / max |w|). weights [K, N], activation_stats [K], ratio in [0,
// 1].
METAL_MARLIN_API SalientMask find_salient_weights(const ArrayView& weights, const ArrayView& activation_stats,
                                                  double salient_ratio = kAwqSalientRatio);

// float32 [K], >= 1: the factor of each input channel. Channels of which at least a tenth of the weights is salient get
// max(stat / median stat, 1)^r, r in 0, 0.05 .. 0.95, the r of least output error; the others get 1. scales [G, N] are
// those of the unscaled weights; a candidate's scales are these times the growth of the group's largest weight.
// activation_stats [K] is optional. Without it statistics are inferred from the mask: in a channel with salient weights
// the statistic is inverse to the least |w| that is still salient. gram [K, K], the mean of x x^T, is optional. Without
// it channels count as uncorrelated, with the statistic as root mean square.
METAL_MARLIN_API Array compute_salient_scaling(const ArrayView& weights, const ArrayView& salient_mask,
                                               const ArrayView& scales, int64_t group_size,
                                               const std::optional<ArrayView>& activation_stats = {},
                                               const std::optional<ArrayView>& gram = {});

struct PackedAWQ {
  Array packed;  // uint32 [padded K / 8, N]
  AWQMeta meta;
};
// Packs signed codes, int8 [K, N] in -8..7, without loss. Rows that pad K hold the code of weight 0. scales and zeros
// [G, N] are only checked: shapes, finite values, zeros integers in -8..7.
METAL_MARLIN_API PackedAWQ pack_awq_weights(const ArrayView& weights, const ArrayView& scales, const ArrayView& zeros,
                                            int64_t group_size = kAwqDefaultGroupSize);
// Returns the codes, int8 [K, N].
METAL_MARLIN_API Array unpack_awq_weights(const ArrayView& packed, const AWQMeta& meta);

// The method is `--method awq-salient` of `quantize` with `--range gram`, and goes through the same stages; what
// differs is that its search rounds with the ranges that it stores. quantize_matrix() has the default, awq. scheme:
// "sym" (codes -8..7) or "asym" (codes 0..15 with a zero point per group). The scales are rounded to float16 before
// codes are chosen. Where float16 cannot hold them, q_scale is changed by a power of two; if that does not help,
// NumericError is thrown. The last group may be short. Memory: the weights in float32 and two matrices [K, K]. The
// observer may stop the work between its stages.
METAL_MARLIN_API AWQResult awq_quantize(const ArrayView& weights, const ArrayView& activations,
                                        int64_t group_size = kAwqDefaultGroupSize,
                                        double salient_ratio = kAwqSalientRatio,
                                        const std::string& activation_method = "rms", const std::string& scheme = "sym",
                                        const Observer& observer = {});

// Returns [K, N] of `type` (float16, bfloat16, float32, float64) by the formula above, rounded once. It reads
// in_features, out_features, group_size, quant_type and code_offset of meta. Throws NumericError for a value that
// `type` cannot hold.
METAL_MARLIN_API Array awq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros,
                                      const std::optional<ArrayView>& q_scale, const AWQMeta& meta,
                                      ElementType type = ElementType::kF16);

inline Array AWQResult::dequantize(ElementType type) const {
  return awq_dequantize(Q, scales, zeros, q_scale, meta, type);
}

// Returns the 4-bit tensors of a `*.awq.safetensors`, in the order of the file. The file may be this program's, or one
// of the implementation that the format comes from (no metadata, offset 7, q_scale per output channel; meta.code_offset
// says so). quantization_error and salient_ratio are not stored and stay 0. Throws FormatError when there is no such
// tensor or a broken one.
METAL_MARLIN_API std::vector<std::pair<std::string, AWQResult>> awq_load(const std::string& path);

struct AWQModelStats {
  int64_t quantized_count = 0;  // tensors
  int64_t skipped_count = 0;
  uint64_t original_bytes = 0;   // of the quantized tensors, as they were stored
  uint64_t quantized_bytes = 0;  // of the same: codes, scales, zeros, q_scale
  std::string quant_type = "awq_int4";
  int64_t group_size = 0;
  double salient_ratio = 0;
  double compression_ratio = 1;  // original_bytes / quantized_bytes; 1 when nothing was quantized
  double bits_per_weight = 0;    // of the whole model
  std::vector<std::pair<std::string, std::string>> skipped;  // name, reason
};
// Quantizes a model with the activations of an .npz (raw ones under the weights' names, or statistics of
// calibrate_model) and writes a folder in the native format. With a config.json the model's own structure says what is
// quantized, and q_scale is folded into the module before. A bare .safetensors file, or a folder of such files without
// a config, is taken tensor by tensor. Quantized are 2-D tensors whose name contains "weight" (and not embed, norm,
// bias, lm_head, nor a router's gate) and that have activations of their width. They get a stored q_scale, in one
// `NAME.awq.safetensors` per file. What is skipped is listed with its reason. The observer's notes say what is done;
// its warnings say what is skipped for want of activations.
METAL_MARLIN_API AWQModelStats awq_quantize_model(const std::string& model_path, const std::string& output_path,
                                                  const std::string& activations_path,
                                                  int64_t group_size = kAwqDefaultGroupSize,
                                                  double salient_ratio = kAwqSalientRatio,
                                                  const std::string& activation_method = "rms",
                                                  const std::string& scheme = "sym", const Observer& observer = {});

}  // namespace metal_marlin
