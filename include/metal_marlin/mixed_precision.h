// Chooses how many bits each layer gets: the precisions, what a layer loses at each, and the choice under a bound.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/sensitivity_records.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

enum class Precision : uint8_t { kFP16, kBF16, kFP4, kNF4, kINT8, kINT4, kINT3, kINT2 };
METAL_MARLIN_API const char* precision_name(Precision precision) noexcept;  // "fp16", "bf16", "fp4", "nf4", "int8", ...
METAL_MARLIN_API Precision parse_precision(const std::string& name);        // ArgumentError for another name
METAL_MARLIN_API int precision_bits(Precision precision) noexcept;          // of a code

struct LayerQuantConfig {
  Precision precision = Precision::kFP4;
  int64_t group_size = 128;  // along in_features; -1: one group per row. Of fp16 and bf16 it is not read
  bool symmetric = true;     // of the integer precisions; else a zero point per group

  bool operator==(const LayerQuantConfig&) const = default;
};
// Counts codes, 16 bits for each group's scale and, unless symmetric, a zero of a code's width. in_features is read
// only for a group_size of -1. Throws ArgumentError for an invalid group size.
METAL_MARLIN_API double bits_per_weight(const LayerQuantConfig& config, int64_t in_features = 0);
// Returns float32 [N, K], the values that W [N, K] has at that precision. They come from GPTQ where H [K, K] is given,
// else from plain rounding. With fp16 and bf16 each value is rounded. Throws ArgumentError and NumericError as gptq.h
// does.
METAL_MARLIN_API Array quantize_values(const ArrayView& W, const LayerQuantConfig& config,
                                       const std::optional<ArrayView>& H = {}, const Observer& observer = {});

// What a layer loses at one precision; empty: not known.
struct PrecisionCost {
  LayerQuantConfig config;
  std::optional<double> kl;            // KL divergence (nats) of the model in which it alone has this precision
  std::optional<double> output_error;  // |X (W' - W)^T| / |X W^T| (Frobenius) on calibration inputs
};
struct LayerSensitivity {
  std::string name;
  std::vector<std::string> linears;  // names of the weights where it stands for several that share an input
  int64_t weights = 0;               // their number
  int64_t in_features = 0;
  double hessian_trace = 0;  // of the H that was given: mean squared length of its inputs, times what H is scaled by
  double weight_variance = 0;
  double outlier_ratio = 0;  // share of weights more than 3 standard deviations from their mean
  std::vector<PrecisionCost> costs;
  int recommended_bits = 0;  // the choice of choose_precisions; 0: none yet
  std::string recommended_format;
};
// Of what sensitivity_of_model (quantize.h) measured: one entry for each set of linears that share an input, named
// "layers.3.qkv". Costs are integer precisions and bf16 with the measured or estimated KL divergence. Throws
// FormatError for a grid that no precision has.
METAL_MARLIN_API std::vector<LayerSensitivity> sensitivity_profile(const SensitivityRecord& sensitivity);
// Measures output_error of fp4, nf4, int3, int4 and int8 (symmetric) in groups of group_size. It takes as long as
// running GPTQ five times.
METAL_MARLIN_API LayerSensitivity analyze_layer_sensitivity(const ArrayView& W, const ArrayView& H,
                                                            const std::string& name = "", int64_t group_size = 128,
                                                            const Observer& observer = {});

// A configuration for each role of layers (layer_role), and for single layers by name, which override the roles.
struct METAL_MARLIN_API MixedPrecisionConfig {
  LayerQuantConfig otherwise;
  LayerQuantConfig embeddings{Precision::kBF16};
  LayerQuantConfig lm_head{Precision::kBF16};
  LayerQuantConfig norms{Precision::kBF16};
  LayerQuantConfig attention_qkv{Precision::kFP4, 64};
  LayerQuantConfig attention_out{Precision::kFP4, 64};
  LayerQuantConfig mlp_gate;
  LayerQuantConfig mlp_up;
  LayerQuantConfig mlp_down;
  LayerQuantConfig moe_router{Precision::kBF16};
  LayerQuantConfig moe_experts;
  LayerQuantConfig moe_shared_expert{Precision::kFP4, 64};
  std::map<std::string, LayerQuantConfig> layers;

  const LayerQuantConfig& layer(const std::string& name) const;
};
// "NAME=BITS:GROUP" of `layers`, as QuantizeOptions::linear_bits takes them; 16 bits "NAME=16". ArgumentError for
// precisions that no checkpoint format here has (fp4, nf4, int2).
METAL_MARLIN_API std::vector<std::string> linear_bits(const std::map<std::string, LayerQuantConfig>& layers);
// "embeddings", "lm_head", ..., the member of MixedPrecisionConfig for a tensor's name as checkpoints have it;
// "default" for none. By whole parts of the name: "model.layers.0.mlp.gate_proj.weight" is an mlp_gate,
// "...mlp.gate.weight" a moe_router.
METAL_MARLIN_API std::string layer_role(const std::string& name);

enum class CostMeasure : uint8_t { kKl, kOutputError };  // the sum of kl; the sum of output_error squared
// Chooses a precision for each layer: of all choices whose mean bits per weight are at most target_bits the one with
// the least sum of losses, of equal ones the one with the fewest bits. It is the choice that quantize makes for
// target_bits. Fills recommended_bits and recommended_format. Throws ArgumentError for a layer without costs of the
// measure, and for a target below what is possible.
METAL_MARLIN_API std::vector<LayerQuantConfig> choose_precisions(std::vector<LayerSensitivity>& profile,
                                                                 double target_bits,
                                                                 CostMeasure measure = CostMeasure::kKl);

}  // namespace metal_marlin
