"""Read by mypy alone (tests/test_types.py), which must find nothing here."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import metal_marlin
from metal_marlin import (
    AWQMeta,
    AWQResult,
    FP4GPTQQuantizer,
    GPTQMetal,
    GPTQQuantizer,
    HessianCollector,
    LayerSensitivity,
    MixedPrecisionConfig,
    MRGPTQQuantizer,
    QuantizationFormat,
    analyze_layer_sensitivity,
    awq_dequantize,
    awq_load,
    awq_quantize,
    awq_quantize_model,
    compare_gptq_vs_rtn,
    compat,
    compute_activation_stats,
    compute_hessian,
    compute_hessian_streaming,
    compute_salient_scaling,
    dequantize_fp4_gptq,
    find_salient_weights,
    gptq_dequantize,
    gptq_quantize,
    hadamard_rotate,
    mr_gptq_dequantize,
    pack_awq_weights,
    pack_gptq_int4,
    quantize_layer_gptq,
    quantize_matrix,
    quantize_rtn,
    unpack_awq_weights,
)

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]


class Tensor:
    """As torch's."""

    requires_grad = False
    dtype = object()

    def __dlpack__(self, *, stream: int | None = -1, max_version: object = None) -> object:
        return None


class TorchDtype:
    is_floating_point = True


def awq(w: F32, x: F32, half: F16, anything: Any, tensor: Tensor, dtype: TorchDtype) -> None:
    result: AWQResult = awq_quantize(w, x, group_size=128, salient_ratio=0.01, activation_method="rms")
    awq_quantize(half, x, 128, 0.01, "max", "numpy", scheme="asym")
    awq_quantize([[0.5, 1.0]], [[1.0, 2.0]], 2)
    awq_quantize(w.astype(np.float64), x.T)
    awq_quantize(tensor, anything)
    tensors = awq_quantize(w, x, output_backend="torch")
    tensors.Q.cpu()
    words: npt.NDArray[np.uint32] = result.Q
    scales: F16 = result.scales
    error: float = result.output_error
    meta = {"in_features": 512, "out_features": 256, "group_size": 128, "quant_type": "awq_int4"}
    values: F16 = awq_dequantize(words, scales, result.zeros, result.q_scale, meta)
    exact: AWQMeta = {"in_features": 512, "out_features": 256, "group_size": 128, "quant_type": "awq_int4"}
    awq_dequantize(words, scales, result.zeros, None, exact, "float32").sum()
    awq_dequantize(words, scales, result.zeros, None, result.meta, np.float64)
    awq_dequantize(words, scales, result.zeros, None, result.meta, np.dtype(np.float32))
    awq_dequantize(words, scales, result.zeros, None, result.meta, dtype, output_backend="torch")
    awq_dequantize(words, scales, result.zeros, None, result.meta, "bfloat16")
    values = result.dequantize()
    result.dequantize("float32")
    mask, importance = find_salient_weights(w, compute_activation_stats(x))
    compute_salient_scaling(w, mask, scales, 128, importance).max()
    packed, packed_meta = pack_awq_weights(np.zeros((16, 1), np.int8), np.ones((1, 1)), np.zeros((1, 1)), group_size=16)
    codes: npt.NDArray[np.int8] = unpack_awq_weights(packed, packed_meta)
    for name, loaded in awq_load(Path("x.awq.safetensors")).items():
        print(name, loaded.Q.shape, loaded, {loaded}, codes, error, values)
    stats = awq_quantize_model(Path("model"), "out", "a.npz", verbose=False)
    print(stats["compression_ratio"] > 3, stats["skipped"].items())


def gptq(w: F32, x: F32) -> None:
    packed = gptq_quantize(w, x, damping=0.01, act_order=True, scheme="asym")
    half: F16 = gptq_dequantize(packed.Q, packed.scales, packed.zeros, packed.meta)
    H = compute_hessian(x)
    sums, add_batch = compute_hessian_streaming(512)
    add_batch(x)
    layer = GPTQQuantizer(bits=4, group_size=128, sym=True, actorder=True, damp=0.01, block_size=128).quantize_weight(
        w, H
    )
    quantize_layer_gptq(w, sums, hessian=True).dequantize().sum()
    words, scales, zeros = pack_gptq_int4(layer.Q, layer.scales, layer.zeros, 128, layer.perm)
    print(half, words.dtype, scales, zeros, quantize_rtn(w).quantization_error, compare_gptq_vs_rtn(w, H)["rtn_mse"])


def others(w: F32, x: F32) -> None:
    collector = HessianCollector(in_features=512)
    collector.accumulate(x, "q_proj")
    H = collector.get_hessian(damp=0, layer="q_proj")
    fp4 = FP4GPTQQuantizer(scale_method="hessian").quantize_weight(w, H)
    dequantize_fp4_gptq(fp4.packed, fp4.scales, fp4.meta).mean()
    fp4.dequantize().mean()
    quantizer = MRGPTQQuantizer(format=QuantizationFormat.NF4)
    packed, scales, metadata = quantizer.quantize_layer(w, H)
    values: F32 = mr_gptq_dequantize(packed, scales, metadata)
    error: float | None = metadata["error"]["output_error"]
    print(quantizer.quantize_layer(w).dequantize(), hadamard_rotate(x), values, error, quantizer.grid)
    quantized, group_scales, zeros = GPTQMetal().quantize_weight_gptq(w, H, percdamp=0.01)
    profile: list[LayerSensitivity] = [analyze_layer_sensitivity(w, H, "q_proj")]
    config = MixedPrecisionConfig.from_sensitivity(profile, 4.5, by="output_error")
    print(config.quantize("q_proj", w, H), quantized, group_scales, zeros)


def matrix(w: F32, x: F32) -> None:
    result = quantize_matrix(w, x)
    quantize_matrix(w, x, method="gptq", scheme="sym", bits=3, group_size=-1, damping=0.1, act_order=False)
    quantize_matrix(w, method="rtn")
    values: F32 = result.dequantize()
    half: npt.NDArray[np.floating[Any]] = result.dequantize("float16")
    rows, columns = result.shape
    codes: npt.NDArray[np.uint8] = result.codes
    print(values, half, rows, columns, codes, result.input_scale, {result: result == result}, metal_marlin.__version__)
    print(compat.awq_quantize(w, x).Q.dtype)


def models(folder: Path) -> None:
    result = metal_marlin.quantize_model(
        folder, "OUT", formats=["awq", "gptq"], method="gptq", group_size=64, guard=True, calibration=[folder, "self"],
        samples=16, evaluate="none", skip="*.layers.0.*", threads=2, on_progress=lambda p: p["done"] < 3,
    )  # fmt: skip
    mean: float | None = result.report.model.kl_divergence.mean
    print(mean, result.passed_gate, result.report["model"], result)
    plan = metal_marlin.plan_quantization(str(folder), "OUT", bits="mixed", max_kl=0.1, group_size=None)
    print(plan.stops, metal_marlin.evaluate("M", folder, None, chunks=2).perplexity.quantized)
    metal_marlin.calibrate_model("M", "s.npz", gram=False, overwrite=True)
    metal_marlin.convert("M", "OUT", "f16", overwrite=True)
    model = metal_marlin.load("M", compute="int8", kv=8)
    text: str = model.chat([{"role": "user", "content": "Hi"}], temp=0, stop=["a"], json_schema={"type": "object"})
    pieces: list[str] = list(model.generate("a", stream=True))
    texts: list[str] = model.generate(["a", "b"], batch=2)
    ended: list[tuple[int, str]] = list(model.generate(("a", "b"), stream=True, temp=0))
    logits: F32 = model.logits(model.tokenize(model.generate("a"), special=False))
    print(text, pieces, texts, ended, logits, model.detokenize([1, 2]), metal_marlin.inspect("M").family)
    try:
        metal_marlin.compare("A", "B")
        equal: bool = metal_marlin.diff("A", "B", limit=3).equal
        verdict: str = metal_marlin.check("A", "vllm", tensor_parallel=2).verdict
        print(equal, verdict)
    except metal_marlin.ArgumentError as error:
        print(error.option)
