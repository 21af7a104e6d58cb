#!/usr/bin/env python3
"""Tests of the quantizers on 4-bit levels, of the collection of Hessians, of GPTQMetal and of the types of mixed precision."""

from __future__ import annotations

import inspect
import json
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import metal_marlin
from metal_marlin import (
    FP4GPTQQuantizer,
    GPTQMetal,
    HessianCollector,
    LayerQuantConfig,
    LayerSensitivity,
    MixedPrecisionConfig,
    MRGPTQQuantizer,
    Precision,
    QuantizationFormat,
    QuantizationReport,
    analyze_layer_sensitivity,
    compute_hessian,
    compute_hessian_metal,
    dequantize_fp4_gptq,
    hadamard_rotate,
    mr_gptq_dequantize,
)

N, K, GROUP = 40, 96, 32
MODEL = Path(__file__).parent / "data" / "models" / "llama"
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def case(n: int = N, k: int = K, tokens: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and correlated inputs of channels of unlike strength."""
    r = np.random.default_rng(seed)
    mixing = np.eye(k) + 0.3 * r.standard_normal((k, k))
    x = (r.standard_normal((tokens, k)) @ mixing * np.exp(r.standard_normal(k))).astype(np.float32)
    return (r.standard_normal((n, k)) * 0.1).astype(np.float32), x


def output_error(Q: np.ndarray, W: np.ndarray, x: np.ndarray) -> float:
    wide = x.astype(np.float64)
    return np.linalg.norm(wide @ (Q.astype(np.float64) - W).T) / np.linalg.norm(wide @ W.T.astype(np.float64))


def textbook(W, H, levels, scales, damp, actorder, group):
    """Algorithm 1 of arXiv 2210.17323 in float64, one column at a time, on static groups; scales [N, G]."""
    k = W.shape[1]
    h = H + (damp + 1e-7) * np.diag(H).mean() * np.eye(k)
    order = np.argsort(-np.diag(h), kind="stable") if actorder else np.arange(k)
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    w = W.astype(np.float64)[:, order]
    q = np.empty_like(w)
    for j in range(k):
        s = scales[:, order[j] // group].astype(np.float64)
        q[:, j] = levels[np.abs(w[:, j, None] / s[:, None] - levels).argmin(1)] * s
        w[:, j + 1 :] -= np.outer((w[:, j] - q[:, j]) / u[j, j], u[j, j + 1 :])
    out = np.empty_like(q)
    out[:, order] = q
    return out


def hadamard(k: int, block: int) -> np.ndarray:
    out, start = np.zeros((k, k)), 0
    while start < k:
        n = block
        while n > k - start:
            n //= 2
        h = np.ones((1, 1))
        while len(h) < n:
            h = np.block([[h, h], [h, -h]])
        out[start : start + n, start : start + n] = h / np.sqrt(n)
        start += n
    return out


SIGNATURES = {
    FP4GPTQQuantizer: [("group_size", 128), ("actorder", True), ("damp_factor", 0.01), ("scale_method", "mse_grid"), ("block_size", 128)],
    FP4GPTQQuantizer.quantize_weight: ["self", "W", ("H", None)],
    MRGPTQQuantizer: [
        ("bits", 4), ("format", "fp4"), ("group_size", 128), ("use_hadamard", True), ("hadamard_block_size", 64),
        ("hadamard_kurtosis_threshold", None), ("actorder", True), ("percdamp", 0.01),
    ],
    MRGPTQQuantizer.quantize_layer: ["self", "weights", ("hessian", None), ("layer_name", ""), ("use_hadamard", None)],
    GPTQMetal: [("device", None)],
    GPTQMetal.compute_hessian: ["self", "activations", ("normalize", True)],
    GPTQMetal.cholesky_decompose: ["self", "H", ("regularization", 1e-6)],
    GPTQMetal.quantize_weight_gptq: ["self", "weight", "H", ("bits", 4), ("blocksize", 128), ("percdamp", 0.01)],
    compute_hessian_metal: ["activations", ("normalize", True)],
    HessianCollector: [("in_features", None), ("damp_ratio", 0.01), ("layer_patterns", None), ("exclude_patterns", None), ("max_tracked_layers", None)],
    HessianCollector.accumulate: ["self", "x", ("layer", "")],
    HessianCollector.get_hessian: ["self", ("damp", 0.01), ("layer", "")],
    HessianCollector.get_hessians: ["self", ("apply_damping", True)],
    LayerQuantConfig: [("precision", Precision.FP4_E2M1), ("group_size", 128), ("symmetric", True)],
}  # fmt: skip


def test_signatures():
    for function, wanted in SIGNATURES.items():
        found = [
            p.name if p.default is inspect.Parameter.empty else (p.name, p.default)
            for p in inspect.signature(function).parameters.values()
        ]
        assert found == wanted, function
        assert function.__doc__


def test_every_sibling_export_is_there():
    for name in [
        "GPTQQuantizer", "FP4GPTQQuantizer", "MRGPTQQuantizer", "QuantizationFormat", "QuantizationReport", "GPTQMetal", "compute_hessian_metal",
        "HessianCollector", "LayerSensitivity", "MixedPrecisionConfig",
    ]:  # fmt: skip
        assert name in metal_marlin.__all__
        assert getattr(metal_marlin, name).__doc__
    assert [f.value for f in QuantizationFormat] == ["fp4", "int4", "nf4"]
    assert QuantizationFormat("nf4") is QuantizationFormat.NF4 and QuantizationFormat.FP4 == "fp4"
    for module, name in [
        ("gptq_fp4", "FP4GPTQQuantizer"),
        ("mr_gptq", "MRGPTQQuantizer"),
        ("gptq_metal", "GPTQMetal"),
        ("mixed_precision", "Precision"),
    ]:
        assert name in getattr(metal_marlin, module).__all__


def test_levels():
    np.testing.assert_array_equal(QuantizationFormat.FP4.levels, FP4)
    np.testing.assert_array_equal(QuantizationFormat.INT4.levels, np.arange(-8, 8))
    nf4 = QuantizationFormat.NF4.levels
    assert nf4.dtype == np.float32 and nf4[0] == -1 and nf4[7] == 0 and nf4[15] == 1 and (np.diff(nf4) > 0).all()


@pytest.mark.parametrize("actorder", [True, False])
@pytest.mark.parametrize("method", ["maxabs", "mse_grid", "mse_newton", "hessian"])
def test_fp4(actorder, method):
    W, x = case(n=37)
    H = compute_hessian(x)
    r = FP4GPTQQuantizer(GROUP, actorder, scale_method=method).quantize_weight(W, H)
    assert r.packed.shape == (K, 5) and r.packed.dtype == np.uint32
    assert r.scales.shape == (3, 37) and r.scales.dtype == np.float16
    assert r.quant_indices.shape == (K, 37) and r.quant_indices.dtype == np.uint8
    unpacked = np.stack([(r.packed >> np.uint32(4 * i)) & 15 for i in range(8)], axis=2).reshape(K, -1)
    np.testing.assert_array_equal(unpacked[:, :37], r.quant_indices)
    assert (unpacked[:, 37:] == 0).all() and (r.quant_indices != 8).all()
    Q = (FP4[r.quant_indices] * np.repeat(r.scales, GROUP, 0)[:K].astype(np.float32)).T
    np.testing.assert_array_equal(dequantize_fp4_gptq(r.packed, r.scales, r.meta, "float32"), Q)
    assert dequantize_fp4_gptq(r.packed, r.scales, r.meta).dtype == np.float16
    assert r.mse == pytest.approx(((Q - W) ** 2).mean(), rel=1e-5)
    assert r.meta["output_error"] == pytest.approx(output_error(Q, W, x), rel=1e-3)
    assert (r.meta["orig_K"], r.meta["orig_N"], r.meta["padded_K"], r.meta["padded_N"], r.meta["group_size"]) == (
        K,
        37,
        K,
        40,
        GROUP,
    )
    reference = textbook(W, H, np.unique(FP4), r.scales.T, 0.01, actorder, GROUP)
    assert (np.abs(reference - Q) > 1e-5).mean() < 0.02
    plain = FP4GPTQQuantizer(GROUP, scale_method="mse_grid" if method == "hessian" else method).quantize_weight(W)
    assert plain.meta["output_error"] is None
    share = 0.75 if actorder else 0.9
    assert r.meta["output_error"] < share * output_error(
        dequantize_fp4_gptq(plain.packed, plain.scales, plain.meta, "float32"), W, x
    )


def test_fp4_plain_rounding_and_scales():
    W, _ = case()
    r = FP4GPTQQuantizer(GROUP, scale_method="maxabs").quantize_weight(W)
    s = (np.abs(W.reshape(N, -1, GROUP)).max(2) / 6).astype(np.float16)
    np.testing.assert_array_equal(r.scales, s.T)
    v = W.reshape(N, -1, GROUP) / s.astype(np.float32)[..., None]
    levels = np.unique(FP4)
    np.testing.assert_array_equal(
        FP4[r.quant_indices].T.reshape(v.shape), levels[np.abs(v[..., None] - levels).argmin(-1)]
    )
    mse = [FP4GPTQQuantizer(GROUP, scale_method=m).quantize_weight(W).mse for m in ("maxabs", "mse_grid", "mse_newton")]
    assert mse[0] > mse[1] >= mse[2]


@pytest.mark.parametrize("format", list(QuantizationFormat))
@pytest.mark.parametrize("k, block", [(96, 32), (96, 64), (50, 16)])
def test_mr_gptq(format, k, block):
    W, x = case(k=k)
    H = compute_hessian(x)
    packed, scales, meta = MRGPTQQuantizer(format=format, group_size=GROUP, hadamard_block_size=block).quantize_layer(
        W, H, "l"
    )
    groups = -(-k // GROUP)
    assert packed.shape == (N, -(-k // 8)) and packed.dtype == np.uint32
    assert scales.shape == (N, groups) and scales.dtype == np.float16
    assert (
        meta["layer_name"] == "l"
        and meta["original_shape"] == (N, k)
        and meta["use_hadamard"]
        and meta["hadamard_block_size"] == block
    )
    R = hadamard(k, block)
    np.testing.assert_allclose(R @ R, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(hadamard_rotate(W, block), W @ R, atol=1e-6)
    codes = np.stack([(packed >> np.uint32(4 * i)) & 15 for i in range(8)], axis=2).reshape(N, -1)
    own = format.levels[codes[:, :k]] * np.repeat(scales, GROUP, 1)[:, :k].astype(np.float32)
    assert (format.levels[codes[:, k:]] == 0).all()
    Q = mr_gptq_dequantize(packed, scales, meta)
    np.testing.assert_array_equal(mr_gptq_dequantize(packed, scales, meta, original_basis=False), own)
    np.testing.assert_allclose(Q, own @ R, atol=1e-6)
    # What is rounded is W R for the inputs x R.
    reference = textbook(W @ R, R @ H @ R, np.unique(format.levels), scales, 0.01, True, GROUP)
    assert np.mean(np.abs(reference - own) > 1e-5) < 0.05
    error = meta["error"]
    assert error["output_error"] == pytest.approx(output_error(Q, W, x), rel=2e-3)
    assert error["rmse"] == pytest.approx(np.sqrt(((Q - W) ** 2).mean()), rel=1e-4) and error["mse"] == pytest.approx(
        error["rmse"] ** 2
    )
    assert error["max_error"] == pytest.approx(np.abs(Q - W).max(), rel=1e-5)
    assert error["relative_error"] == pytest.approx(np.linalg.norm(Q - W) / np.linalg.norm(W), rel=1e-4)
    plain = MRGPTQQuantizer(format=format, group_size=GROUP, hadamard_block_size=block)
    P = plain.dequantize(*plain.quantize_layer(W))
    assert error["output_error"] < 0.75 * output_error(P, W, x)


def test_mr_gptq_rotates_where_it_helps():
    r = np.random.default_rng(1)
    W = (r.standard_normal((64, 128)) * 0.02).astype(np.float32)
    W[np.arange(64), r.permutation(128)[:64]] = 1
    quantizer = MRGPTQQuantizer(format="INT4", hadamard_kurtosis_threshold=3.0)
    _, _, meta = quantizer.quantize_layer(W)
    assert meta["use_hadamard"] and meta["kurtosis"] > 3
    _, _, plain = quantizer.quantize_layer(W, use_hadamard=False)
    assert not plain["use_hadamard"] and plain["hadamard_block_size"] == 0
    assert meta["error"]["rmse"] < 0.8 * plain["error"]["rmse"]
    _, _, normal = quantizer.quantize_layer(r.standard_normal((64, 128)))
    assert not normal["use_hadamard"] and abs(normal["kurtosis"]) < 0.2


def test_gptq_metal():
    W, x = case()
    metal = GPTQMetal()
    H = metal.compute_hessian(x)
    np.testing.assert_array_equal(H, compute_hessian(x))
    np.testing.assert_array_equal(compute_hessian_metal(x, normalize=False), compute_hessian(x, normalize=False))
    L = metal.cholesky_decompose(H, regularization=0.1)
    np.testing.assert_allclose(L, np.linalg.cholesky(H + 0.1 * np.eye(K)), atol=1e-10)
    with pytest.raises(ValueError, match="H: expected .* positive definite"):
        metal.cholesky_decompose(-1e-3 * np.eye(4) * 0, 0)
    for bits in (2, 3, 4, 8):
        Q, scales, zeros = metal.quantize_weight_gptq(W, H, bits, blocksize=GROUP)
        assert (
            Q.shape == (N, K)
            and scales.shape == zeros.shape == (3, N)
            and Q.dtype == scales.dtype == np.float32
            and not zeros.any()
        )
        codes = Q / np.repeat(scales, GROUP, 0).T
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
        levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
        assert np.mean(np.abs(textbook(W, H, levels, scales.T, 0.01, True, GROUP) - Q) > 1e-5) < 0.02
    assert metal.quantize_weight_gptq(W, H)[1].shape == (1, N)  # K below blocksize
    assert metal.quantize_weight_gptq(W[:, :50], H[:50, :50], blocksize=32)[1].shape == (2, N)


def test_hessian_collector():
    _, x = case(tokens=600)
    wide = x.astype(np.float64)
    expected = wide.T @ wide / 600
    collector = HessianCollector(K)
    collector.accumulate(x[:100])
    collector.accumulate(x[100:].reshape(5, 100, K))
    assert collector.n_samples == 600
    np.testing.assert_allclose(collector.H, 600 * expected, rtol=1e-12, atol=1e-8)
    H = collector.get_hessian(damp=0.1)
    assert H.dtype == np.float64
    np.testing.assert_allclose(H, expected + 0.1 * np.diag(expected).mean() * np.eye(K), rtol=1e-12, atol=1e-10)
    other = HessianCollector()
    other.accumulate(x, "a")
    other.accumulate(x[:, :10], "b")
    other.merge(collector)
    assert other.layer_names == ["", "a", "b"] and other.samples("b") == 600 and other.samples("c") == 0
    assert other.memory_bytes == 8 * (2 * K * K + 100) and other.memory_mb == other.memory_bytes / 2**20
    undamped = other.get_hessians(apply_damping=False)
    np.testing.assert_allclose(undamped["a"], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.trace(other.get_hessians()["b"]), 1.01 * np.trace(undamped["b"]))
    threads = [threading.Thread(target=other.accumulate, args=(x, "t")) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_allclose(other.get_hessian(0, "t"), expected, rtol=1e-12, atol=1e-12)
    bad = x.copy()
    bad[-1, -1] = np.nan
    with pytest.raises(ValueError, match="x: expected finite"):
        collector.accumulate(bad)
    assert collector.n_samples == 600
    collector.clear()
    assert collector.n_samples == 0 and collector.num_layers == 0


class Linear:
    """As much of torch.nn.Linear as hooks need."""

    def __init__(self, k: int, n: int, seed: int) -> None:
        self.in_features, self.out_features = k, n
        self.weight = np.random.default_rng(seed).standard_normal((n, k))
        self.hooks: dict[int, object] = {}

    def register_forward_hook(self, hook):
        key, hooks = len(self.hooks), self.hooks
        hooks[key] = hook

        class Handle:
            def remove(self):
                del hooks[key]

        return Handle()

    def __call__(self, x):
        y = x @ self.weight.T
        for hook in self.hooks.values():
            hook(self, (x,), y)
        return y


class Chain:
    def __init__(self) -> None:
        self.parts = {
            "q_proj": Linear(12, 8, 1),
            "o_proj": Linear(8, 12, 2),
            "mlp.fc": Linear(12, 4, 3),
            "lm_head": Linear(4, 9, 4),
        }

    def named_modules(self):
        return [("", self), *self.parts.items()]

    def __call__(self, x):
        for part in self.parts.values():
            x = part(x)


def test_hooks():
    model, x = Chain(), np.random.default_rng(5).standard_normal((2, 7, 12))
    collector = HessianCollector(exclude_patterns=["MLP"])
    assert collector.register_hooks(model) == 2
    model(x)
    model(x)
    assert collector.layer_names == ["o_proj", "q_proj"] and collector.samples("q_proj") == 28
    flat = x.reshape(-1, 12)
    np.testing.assert_allclose(collector.get_hessians(False)["q_proj"], flat.T @ flat / 14, rtol=1e-6, atol=1e-7)
    collector.remove_hooks()
    model(x)
    assert collector.samples("q_proj") == 28
    limited = HessianCollector(layer_patterns=["proj"], max_tracked_layers=1)
    limited.register_hooks(model)
    model(x)
    assert limited.layer_names == ["q_proj"] and limited.skipped_due_limit == 1


def test_sensitivity_and_choice():
    W, x = case()
    H = compute_hessian(x)
    s = analyze_layer_sensitivity(W, H, "a", GROUP)
    assert s.name == "a" and s.weights == N * K and s.in_features == K
    assert s.hessian_trace == pytest.approx(np.trace(H), rel=1e-5) and s.weight_variance == pytest.approx(
        W.var(), rel=1e-5
    )
    assert s.outlier_ratio == pytest.approx((np.abs(W - W.mean()) > 3 * W.std()).mean())
    errors = {c.config.precision: c.output_error for c in s.costs}
    assert errors[Precision.INT8] < errors[Precision.INT4] < errors[Precision.INT3] and set(errors) >= {
        Precision.FP4_E2M1,
        Precision.NF4,
    }
    config = MixedPrecisionConfig()
    config.layers["a"] = LayerQuantConfig(Precision.INT3, GROUP)
    assert output_error(config.quantize("a", W, H), W, x) == pytest.approx(errors[Precision.INT3], rel=1e-3)
    np.testing.assert_array_equal(
        config.quantize("model.norm.weight", W),
        (W.view(np.uint32) + 0x7FFF + (W.view(np.uint32) >> 16 & 1) & 0xFFFF0000).view(np.float32),
    )

    rows = [
        {"name": name, "weights": weights, "bits": bits, "kl": kl / 4 ** (bits - 3), "group_size": 64}
        for name, weights, kl in (("a", 1000, 0.4), ("b", 1000, 0.01), ("c", 3000, 0.02)) for bits in (3, 4, 8)
    ]  # fmt: skip
    profile = LayerSensitivity.from_rows(rows)
    assert [p.name for p in profile] == ["a", "b", "c"] and len(profile[0].costs) == 3
    chosen = MixedPrecisionConfig.from_sensitivity(profile, 4.3)
    assert (
        chosen.layer("a").precision is Precision.INT8
        and profile[0].recommended_bits == 8
        and profile[0].recommended_format == "int8"
    )
    mean = sum(p.weights * chosen.layer(p.name).bits_per_weight() for p in profile) / sum(p.weights for p in profile)
    assert mean <= 4.3
    MixedPrecisionConfig.from_sensitivity([s], 4.6, by="output_error")
    assert s.recommended_bits == 4
    with pytest.raises(ValueError, match="target_bits: expected at least 3.25"):
        MixedPrecisionConfig.from_sensitivity(profile, 3.0)
    assert MixedPrecisionConfig.default_dense().layer("model.layers.0.self_attn.q_proj.weight") == LayerQuantConfig(
        group_size=64
    )


def test_a_measured_model_is_quantized_as_chosen(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and runs away from it. " * 400)
    options = {
        "calibration": text,
        "samples": 8,
        "sequence_length": 64,
        "group_size": 8,
        "scheme": "sym",
        "formats": "native",
    }
    sensitivity = metal_marlin.sensitivity_of_model(MODEL, **options, sensitivity_tokens=256)
    profile = LayerSensitivity.from_model(sensitivity)
    assert len(profile) == len(sensitivity["items"])
    for layer, item in zip(profile, sensitivity["items"]):
        assert layer.linears == item["linears"] and layer.weights == item["weights"]
        assert [c.kl for c in layer.costs] == [o["estimated_kl"] for o in item["options"]]
    config = MixedPrecisionConfig.from_sensitivity(profile, 6.0)
    rules = config.linear_bits()
    assert len(rules) == sum(len(layer.linears) for layer in profile)
    run = metal_marlin.quantize_model(MODEL, tmp_path / "out", **options, linear_bits=rules, evaluate="none")
    found = {l["name"]: (l["bits"], l["group_size"]) for l in run.report["linears"]}
    for name, c in config.layers.items():
        bits = 16 if c.precision is Precision.BF16 else int(c.precision.value[-1])
        assert found.get(name, (16, 0))[0] == bits
        assert bits == 16 or found[name][1] == c.group_size
    assert len({bits for bits, _ in found.values()}) > 1 or len(found) < len(rules)
    with pytest.raises(ValueError, match="layers: expected int3"):
        MixedPrecisionConfig(layers={"a": LayerQuantConfig()}).linear_bits()
    with pytest.raises(ValueError, match="sensitivity: tokens: expected an integer, found nothing"):
        LayerSensitivity.from_model({})


def test_quantization_report(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and runs away from it. " * 200)
    run = metal_marlin.quantize_model(
        MODEL,
        tmp_path / "out",
        calibration=text,
        samples=4,
        sequence_length=64,
        group_size=8,
        evaluate=text,
        chunks=2,
        context=64,
    )
    report = QuantizationReport.from_run(tmp_path / "out")
    assert (
        report.quantized_layers == len(run.report["linears"]) == len(report.layers)
        and report.group_size == 8
        and report.bits == 4
    )
    assert report.output_path == str(tmp_path / "out") and report.formats == run.report["options"]["formats"]
    first = run.report["linears"][0]
    assert report.layers[0].name == first["name"] and report.layers[0].shape == tuple(first["shape"])
    assert (
        report.layers[0].output_error == first["output_error"]
        and report.layers[0].weight_error == first["weight_error"]
    )
    assert report.quantized_params == sum(int(np.prod(l["shape"])) for l in run.report["linears"])
    assert report.compression_ratio == pytest.approx(run.report["model"]["source_bytes"] / run.report["model"]["bytes"])
    assert report.kl_divergence == run.report["model"]["kl_divergence"]["mean"]
    assert (
        QuantizationReport.from_report(run.report).to_dict()["layers"]
        == json.loads(json.dumps(report.to_dict()))["layers"]
    )
    assert report.actorder
    metal_marlin.quantize_model(
        MODEL,
        tmp_path / "plain",
        method="rtn",
        group_size=8,
        calibration=text,
        samples=4,
        sequence_length=64,
        evaluate="none",
    )
    assert not QuantizationReport.from_run(tmp_path / "plain").actorder
    with pytest.raises(FileNotFoundError, match="output: expected"):
        QuantizationReport.from_run(tmp_path / "nothing")
    with pytest.raises(ValueError):
        QuantizationReport.from_report({})


def test_bad_input():
    W, x = case()
    H = compute_hessian(x)
    skew = H.copy()
    skew[0, 1] += 1e3
    fp4 = FP4GPTQQuantizer(GROUP).quantize_weight(W)
    packed, scales, meta = MRGPTQQuantizer(group_size=GROUP).quantize_layer(W)
    metal = GPTQMetal()
    checks = [
        (ValueError, "group_size", lambda: FP4GPTQQuantizer(0)),
        (TypeError, "group_size", lambda: FP4GPTQQuantizer(32.0)),
        (ValueError, "group_size", lambda: metal_marlin.quantize_rtn(W, 4, 2**63 - 1)),
        (ValueError, "group_size", lambda: metal_marlin.quantize_layer_gptq(W, x, 4, 2**63 - 1)),
        (ValueError, "group_size", lambda: metal_marlin.GPTQQuantizer(group_size=2**63 - 1).quantize_weight(W, H)),
        (ValueError, "group_size", lambda: metal_marlin.analyze_layer_sensitivity(W, H, group_size=2**63 - 1)),
        (
            ValueError,
            "rows: kl",
            lambda: LayerSensitivity.from_rows([{"name": "a", "weights": 8, "bits": 4, "kl": float("nan")}]),
        ),
        (
            ValueError,
            "rows: kl",
            lambda: LayerSensitivity.from_rows([{"name": "a", "weights": 8, "bits": 4, "kl": -0.1}]),
        ),
        (
            ValueError,
            "metadata: original_shape",
            lambda: mr_gptq_dequantize(packed, scales, {**meta, "original_shape": (16,)}),
        ),
        (
            ValueError,
            "metadata: original_shape",
            lambda: mr_gptq_dequantize(packed, scales, {**meta, "original_shape": (W.shape[0] - 1, W.shape[1])}),
        ),
        (TypeError, "actorder", lambda: FP4GPTQQuantizer(actorder=1)),
        (ValueError, "damp_factor", lambda: FP4GPTQQuantizer(damp_factor=2)),
        (ValueError, "scale_method", lambda: FP4GPTQQuantizer(scale_method="best")),
        (ValueError, "block_size", lambda: FP4GPTQQuantizer(block_size=64)),
        (ValueError, "W", lambda: FP4GPTQQuantizer().quantize_weight(W[0])),
        (TypeError, "W", lambda: FP4GPTQQuantizer().quantize_weight(W.astype(int))),
        (ValueError, "W", lambda: FP4GPTQQuantizer().quantize_weight(np.full_like(W, np.inf))),
        (ValueError, "W", lambda: FP4GPTQQuantizer().quantize_weight(W * 1e9)),
        (ValueError, "H", lambda: FP4GPTQQuantizer().quantize_weight(W, H[:-1])),
        (ValueError, "H", lambda: FP4GPTQQuantizer().quantize_weight(W, skew)),
        (ValueError, "H", lambda: FP4GPTQQuantizer(scale_method="hessian").quantize_weight(W)),
        (ValueError, "packed", lambda: dequantize_fp4_gptq(fp4.packed[:, 1:], fp4.scales, fp4.meta)),
        (ValueError, "scales", lambda: dequantize_fp4_gptq(fp4.packed, fp4.scales[1:], fp4.meta)),
        (ValueError, "meta", lambda: dequantize_fp4_gptq(fp4.packed, fp4.scales, {})),
        (TypeError, "meta", lambda: dequantize_fp4_gptq(fp4.packed, fp4.scales, None)),
        (ValueError, "bits", lambda: MRGPTQQuantizer(bits=3)),
        (ValueError, "format", lambda: MRGPTQQuantizer(format="fp8")),
        (TypeError, "format", lambda: MRGPTQQuantizer(format=4)),
        (ValueError, "hadamard_block_size", lambda: MRGPTQQuantizer(hadamard_block_size=48)),
        (ValueError, "hadamard_kurtosis_threshold", lambda: MRGPTQQuantizer(hadamard_kurtosis_threshold=float("nan"))),
        (ValueError, "percdamp", lambda: MRGPTQQuantizer(percdamp=-1)),
        (ValueError, "weights", lambda: MRGPTQQuantizer().quantize_layer(W[:0])),
        (ValueError, "hessian", lambda: MRGPTQQuantizer().quantize_layer(W, H[1:, 1:])),
        (TypeError, "layer_name", lambda: MRGPTQQuantizer().quantize_layer(W, H, 3)),
        (TypeError, "use_hadamard", lambda: MRGPTQQuantizer().quantize_layer(W, use_hadamard=1)),
        (ValueError, "packed", lambda: mr_gptq_dequantize(packed[:, 1:], scales, meta)),
        (ValueError, "metadata", lambda: mr_gptq_dequantize(packed, scales, {})),
        (ValueError, "hadamard_block_size", lambda: hadamard_rotate(W, 3)),
        (ValueError, "device", lambda: GPTQMetal("mps")),
        (ValueError, "bits", lambda: metal.quantize_weight_gptq(W, H, 5)),
        (ValueError, "blocksize", lambda: metal.quantize_weight_gptq(W, H, blocksize=0)),
        (ValueError, "blocksize", lambda: metal.quantize_weight_gptq(W, H, blocksize=2**63 - 1)),
        (ValueError, "weight", lambda: metal.quantize_weight_gptq(W[0], H)),
        (ValueError, "H", lambda: metal.cholesky_decompose(H[1:])),
        (ValueError, "regularization", lambda: metal.cholesky_decompose(H, -1)),
        (ValueError, "activations", lambda: compute_hessian_metal(x[:0])),
        (ValueError, "in_features", lambda: HessianCollector(0)),
        (ValueError, "damp_ratio", lambda: HessianCollector(damp_ratio=-1)),
        (TypeError, "layer_patterns", lambda: HessianCollector(layer_patterns="q")),
        (ValueError, "x", lambda: HessianCollector(K).accumulate(x[:, 1:])),
        (ValueError, "layer", lambda: HessianCollector().get_hessian()),
        (ValueError, "damp", lambda: HessianCollector().get_hessian(7)),
        (TypeError, "other", lambda: HessianCollector().merge(H)),
        (TypeError, "model", lambda: HessianCollector().register_hooks(W)),
        (TypeError, "precision", lambda: LayerQuantConfig("fp4")),
        (ValueError, "group_size", lambda: LayerQuantConfig(group_size=0)),
        (
            ValueError,
            "rows: bits",
            lambda: LayerSensitivity.from_rows([{"name": "a", "weights": 1, "bits": 5, "kl": 0}]),
        ),
        (ValueError, "profile", lambda: MixedPrecisionConfig.from_sensitivity([], 4)),
        (ValueError, "by", lambda: MixedPrecisionConfig.from_sensitivity([], 4, "size")),
        (TypeError, "report", lambda: QuantizationReport.from_report(None)),
    ]
    for error, name, call in checks:
        with pytest.raises(error, match=f"{name}: expected"):
            call()
