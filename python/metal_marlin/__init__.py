"""Metal Marlin: activation-aware 4-bit quantization of language models."""

from __future__ import annotations

from . import compat
from ._core import (
    ArgumentError,
    Error,
    FormatError,
    Interrupted,
    MachineError,
    NumericError,
    UnsupportedError,
    __version__,
)
from ._record import Record
from ._records import (
    CalibrateResult,
    CheckResult,
    Comparison,
    ConvertResult,
    DiffResult,
    EvaluationRecord,
    Inspection,
    Plan,
    Report,
    SensitivityReport,
)
from ._types import AWQMeta, AWQModelStats, FP4Meta, GPTQComparison, MRGPTQMeta
from .awq import (
    AWQResult,
    PackedAWQ,
    SalientWeights,
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
    PackedGPTQ,
    compare_gptq_vs_rtn,
    compute_hessian,
    compute_hessian_streaming,
    gptq_dequantize,
    gptq_quantize,
    pack_gptq_int4,
    quantize_layer_gptq,
    quantize_rtn,
)
from .gptq_fp4 import FP4GPTQQuantizer, FP4GPTQResult, dequantize_fp4_gptq
from .gptq_metal import GPTQMetal, GPTQMetalResult, compute_hessian_metal
from .hessian import HessianCollector
from .matrix import QuantizedMatrix, quantize_matrix
from .mixed_precision import (
    LayerQuantConfig,
    LayerSensitivity,
    MixedPrecisionConfig,
    Precision,
    PrecisionCost,
    analyze_layer_sensitivity,
)
from .models import (
    Model,
    QuantizeResult,
    calibrate_model,
    check,
    compare,
    convert,
    diff,
    evaluate,
    generate,
    inspect,
    load,
    plan_quantization,
    quantize_model,
    sensitivity_of_model,
)
from .mr_gptq import (
    MRGPTQQuantizer,
    MRGPTQResult,
    QuantizationFormat,
    QuantizationLayerReport,
    QuantizationReport,
    hadamard_rotate,
    mr_gptq_dequantize,
)

__all__ = [
    "QuantizedMatrix", "quantize_matrix", "compat",
    "AWQResult", "awq_quantize", "awq_dequantize", "awq_quantize_model", "awq_load", "compute_activation_stats",
    "compute_salient_scaling", "find_salient_weights", "pack_awq_weights", "unpack_awq_weights",
    "GPTQPacked", "gptq_quantize", "gptq_dequantize",
    "GPTQQuantizer", "GPTQResult", "compute_hessian", "compute_hessian_streaming", "quantize_layer_gptq", "quantize_rtn",
    "pack_gptq_int4", "compare_gptq_vs_rtn",
    "FP4GPTQQuantizer", "FP4GPTQResult", "dequantize_fp4_gptq", "MRGPTQQuantizer", "mr_gptq_dequantize", "hadamard_rotate",
    "QuantizationFormat", "QuantizationReport", "QuantizationLayerReport", "GPTQMetal", "compute_hessian_metal", "HessianCollector",
    "SalientWeights", "PackedAWQ", "PackedGPTQ", "MRGPTQResult", "GPTQMetalResult",
    "AWQMeta", "AWQModelStats", "FP4Meta", "GPTQComparison", "MRGPTQMeta",
    "Precision", "PrecisionCost", "LayerQuantConfig", "LayerSensitivity", "MixedPrecisionConfig", "analyze_layer_sensitivity",
    "Model", "QuantizeResult", "quantize_model", "plan_quantization", "sensitivity_of_model", "calibrate_model", "evaluate", "convert", "generate",
    "inspect", "compare", "diff", "check", "load",
    "Record", "Report", "Plan", "SensitivityReport", "EvaluationRecord", "Inspection", "Comparison", "ConvertResult",
    "CalibrateResult", "CheckResult", "DiffResult",
    "Error", "ArgumentError", "FormatError", "UnsupportedError", "MachineError", "NumericError", "Interrupted",
    "__version__",
]  # fmt: skip
