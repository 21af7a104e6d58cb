"""Read by mypy alone (tests/test_types.py). Each line that ends in "mistake" has one, and no other line has."""

import numpy as np
import numpy.typing as npt

from metal_marlin import (
    FP4GPTQQuantizer,
    GPTQMetal,
    GPTQQuantizer,
    HessianCollector,
    MixedPrecisionConfig,
    MRGPTQQuantizer,
    analyze_layer_sensitivity,
    awq_dequantize,
    awq_load,
    awq_quantize,
    awq_quantize_model,
    calibrate_model,
    compare_gptq_vs_rtn,
    compute_activation_stats,
    compute_hessian,
    convert,
    evaluate,
    find_salient_weights,
    gptq_dequantize,
    gptq_quantize,
    inspect,
    load,
    mr_gptq_dequantize,
    pack_awq_weights,
    plan_quantization,
    quantize_layer_gptq,
    quantize_matrix,
    quantize_model,
    quantize_rtn,
)

F32 = npt.NDArray[np.float32]


def awq(w: F32, x: F32, codes: npt.NDArray[np.int8]) -> None:
    awq_quantize("weights", x)  # mistake
    awq_quantize(w, 3)  # mistake
    awq_quantize(w, x, activation_method="l2")  # mistake
    awq_quantize(w, x, scheme="symm")  # mistake
    awq_quantize(w, x, group_sise=64)  # mistake
    awq_quantize(w, x, group_size="64")  # mistake
    awq_quantize(w, x, output_backend="tensorflow")  # mistake
    awq_quantize("weights", 3, activation_method="l2", scheme="symm")  # mistake
    awq_quantize(codes, x)  # mistake
    result = awq_quantize(w, x)
    result.q_scales  # mistake
    result.meta["out_featurs"]  # mistake
    result.dequantize("float33")  # mistake
    result.dequantize(np.int32)  # mistake
    text: str = result.Q  # mistake
    words: npt.NDArray[np.float32] = result.Q  # mistake
    awq_dequantize(w, result.scales, result.zeros, result.q_scale, result.meta)  # mistake
    awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, 3)  # mistake
    awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, result.meta, "half")  # mistake
    compute_activation_stats(x, "median")  # mistake
    find_salient_weights(w, x, salient_ratio="1 %")  # mistake
    find_salient_weights(w, x).mask  # mistake
    pack_awq_weights(w, w, w)  # mistake
    awq_load(3)  # mistake
    awq_quantize_model("m", "o", "a.npz", verbose="yes")  # mistake
    awq_quantize_model("m", "o", "a.npz")["quantised_count"]  # mistake


def gptq(w: F32, x: F32) -> None:
    gptq_quantize(w, x, damp=0.01)  # mistake
    gptq_quantize(w, x, act_order="yes")  # mistake
    gptq_quantize(w, x).q_scale  # mistake
    packed = gptq_quantize(w, x)
    gptq_dequantize(packed.Q, packed.scales, packed.zeros)  # mistake
    GPTQQuantizer(bit=4)  # mistake
    GPTQQuantizer(sym="sym")  # mistake
    GPTQQuantizer().quantize_weight(w)  # mistake
    quantize_layer_gptq(w, "hessian", hessian=True)  # mistake
    quantize_rtn(w, bits="4")  # mistake
    quantize_rtn(w).zeros.shape  # mistake
    compute_hessian(x, normalise=False)  # mistake
    compare_gptq_vs_rtn(w, x)["improvement"]  # mistake


def others(w: F32, h: F32) -> None:
    FP4GPTQQuantizer(scale_method="mse")  # mistake
    FP4GPTQQuantizer().quantize_weight(w, h).meta["orig_M"]  # mistake
    MRGPTQQuantizer(format="fp8")  # mistake
    layer = MRGPTQQuantizer().quantize_layer(w, h)
    layer.meta  # mistake
    layer.metadata["errors"]  # mistake
    mr_gptq_dequantize(layer.packed, layer.scales, layer.metadata, "float8")  # mistake
    HessianCollector().accumulate("x")  # mistake
    HessianCollector().get_hessian(layer=3)  # mistake
    GPTQMetal().quantize_weight_gptq(w, h, damp=0.01)  # mistake
    analyze_layer_sensitivity(w, h).cost  # mistake
    MixedPrecisionConfig.from_sensitivity([], 4.5, by="perplexity")  # mistake


def matrix(w: F32, x: F32) -> None:
    quantize_matrix(w)  # mistake
    quantize_matrix(w, x, method="awq-best")  # mistake
    quantize_matrix(w, x, scheme="symmetric")  # mistake
    quantize_matrix(w, x, damp=0.01)  # mistake
    quantize_matrix(w, x, bits=5)  # mistake
    quantize_matrix(w, x, "gptq")  # mistake
    result = quantize_matrix(w, x)
    result.Q  # mistake
    result.bits = 3  # mistake
    result.dequantize("f16")  # mistake


def models() -> None:
    quantize_model("M", "OUT", group_sise=64)  # mistake
    quantize_model("M", "OUT", group_size="64")  # mistake
    quantize_model("M", "OUT", samples="many")  # mistake
    quantize_model("M", "OUT", method="awq2")  # mistake
    quantize_model("M", "OUT", scheme="symm")  # mistake
    quantize_model("M", "OUT", bits=9)  # mistake
    quantize_model("M", "OUT", formats=["awq", "gguf"])  # mistake
    quantize_model("M", "OUT", guard="yes")  # mistake
    quantize_model("M", 3)  # mistake
    quantize_model("M", "OUT", "sym")  # mistake
    quantize_model("M", "OUT").report.model.kl_divergence.average  # mistake
    quantize_model("M", "OUT").failed_gate  # mistake
    quantize_model("M", "OUT", on_progress=3)  # mistake
    plan_quantization("M", "OUT", overwrite="yes")  # mistake
    calibrate_model("M", "OUT", select=1.5)  # mistake
    evaluate(3, None, chunk=2)  # mistake
    evaluate("M", "T").perplexity.quantised  # mistake
    convert("M", "OUT", "gguf")  # mistake
    inspect("M").famly  # mistake
    model = load("M", threads="2")  # mistake
    model.generate("a", top_k=0.5)  # mistake
    model.chat([{"role": "user", "content": 3}])  # mistake
    number: int = model.generate("a")  # mistake
    print(number)
