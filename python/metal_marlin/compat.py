"""The names of the implementation that this package's interface comes from, with its conventions.

Of AWQ and :func:`gptq_quantize` weights are ``[in_features, out_features]``, of the other functions
``[out_features, in_features]``. The same thing has several names: ``damp``, ``damping``, ``damp_factor`` and ``percdamp``;
``actorder`` and ``act_order``; ``sym`` and ``scheme``. Most of these names are at the top level too.
:func:`metal_marlin.quantize_matrix` has one convention for all.
"""

from __future__ import annotations

from .awq import (
    AWQ_DEFAULT_GROUP_SIZE,
    AWQ_MAX_INT4,
    AWQ_QUANT_BITS,
    AWQ_SALIENT_RATIO,
    FP4_PER_U32,
    AWQResult,
    awq_dequantize,
    awq_load,
    awq_quantize,
    awq_quantize_model,
    compute_activation_stats,
    compute_salient_scaling,
    find_salient_weights,
    pack_awq_weights,
    unpack_awq_weights,
)
from .gptq import (
    GPTQPacked,
    GPTQQuantizer,
    GPTQResult,
    compare_gptq_vs_rtn,
    compute_hessian,
    compute_hessian_streaming,
    gptq_dequantize,
    gptq_quantize,
    pack_gptq_int4,
    quantize_layer_gptq,
    quantize_rtn,
)
from .gptq_fp4 import FP4GPTQQuantizer, FP4GPTQResult, dequantize_fp4_gptq, fp4_gptq_quantize_weight
from .gptq_metal import GPTQMetal, cholesky_decompose, compute_hessian_metal
from .hessian import HessianCollector
from .mixed_precision import LayerSensitivity, MixedPrecisionConfig
from .mr_gptq import MRGPTQQuantizer, QuantizationFormat, QuantizationReport, hadamard_rotate, mr_gptq_dequantize

__all__ = [
    "AWQ_DEFAULT_GROUP_SIZE", "AWQ_MAX_INT4", "AWQ_QUANT_BITS", "AWQ_SALIENT_RATIO", "FP4_PER_U32",
    "AWQResult", "awq_dequantize", "awq_load", "awq_quantize", "awq_quantize_model", "compute_activation_stats",
    "compute_salient_scaling", "find_salient_weights", "pack_awq_weights", "unpack_awq_weights",
    "GPTQPacked", "GPTQQuantizer", "GPTQResult", "compare_gptq_vs_rtn", "compute_hessian", "compute_hessian_streaming",
    "gptq_dequantize", "gptq_quantize", "pack_gptq_int4", "quantize_layer_gptq", "quantize_rtn",
    "FP4GPTQQuantizer", "FP4GPTQResult", "dequantize_fp4_gptq", "fp4_gptq_quantize_weight",
    "GPTQMetal", "cholesky_decompose", "compute_hessian_metal", "HessianCollector", "LayerSensitivity", "MixedPrecisionConfig",
    "MRGPTQQuantizer", "QuantizationFormat", "QuantizationReport", "hadamard_rotate", "mr_gptq_dequantize",
]  # fmt: skip
