#!/usr/bin/env python3
"""Tests of the Python interface of AWQ. Runs under pytest, and as a script that prints one line per part."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import threading
import time
import _thread
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import metal_marlin
from metal_marlin import awq as awq_module
from metal_marlin import (
    AWQResult,
    awq_dequantize,
    awq_load,
    awq_quantize,
    awq_quantize_model,
    compute_activation_stats,
    compute_salient_scaling,
    find_salient_weights,
    gptq_dequantize,
    gptq_quantize,
    pack_awq_weights,
    unpack_awq_weights,
)

K, N, GROUP = 512, 256, 128
MODEL = Path(__file__).parent / "data" / "models" / "llama"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def case(k: int = K, n: int = N, outliers: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r = rng(seed)
    weights = (r.standard_normal((k, n)) * 0.1).astype(np.float32)
    activations = r.standard_normal((10, 128, k)).astype(np.float32)
    if outliers:
        activations[:, :, r.choice(k, outliers, replace=False)] *= 20
    return weights, activations


def reference_dequantize(q, scales, zeros, q_scale, k):
    """The formula of docs/awq.md in float32, word by word."""
    codes = np.stack([(q >> np.uint32(4 * i)) & np.uint32(15) for i in range(8)], axis=1).reshape(-1, q.shape[1])[:k]
    group = -(-k // scales.shape[0])
    group = GROUP if group <= GROUP else group
    g = np.arange(k) // group
    w = (codes.astype(np.float32) - 8 - zeros.astype(np.float32)[g]) * scales.astype(np.float32)[g]
    return w / q_scale.astype(np.float32)[:, None]


def round_to_nearest(weights: np.ndarray, group: int = GROUP) -> np.ndarray:
    k, n = weights.shape
    w = weights.reshape(k // group, group, n)
    s = (np.abs(w).max(1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    return (np.clip(np.rint(w / s), -8, 7) * s).reshape(k, n)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def restored(result: AWQResult, dtype: str = "float32") -> np.ndarray:
    return awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, result.meta, dtype)


# ---- names, signatures, defaults --------------------------------------------------------------------------------------

SIGNATURES = {
    "compute_activation_stats": ["activations", ("method", "rms")],
    "find_salient_weights": ["weights", "activation_stats", ("salient_ratio", 0.01)],
    "compute_salient_scaling": ["weights", "salient_mask", "scales", "group_size"],
    "pack_awq_weights": ["weights", "scales", "zeros", ("group_size", 128)],
    "awq_quantize": [
        "weights", "activations", ("group_size", 128), ("salient_ratio", 0.01), ("activation_method", "rms"),
        ("output_backend", "numpy"),
    ],
    "awq_dequantize": [
        "packed", "scales", "zeros", "q_scale", "meta", ("weights_dtype", None), ("output_backend", "numpy"),
    ],
    "awq_quantize_model": [
        "model_path", "output_path", "activations_path", ("group_size", 128), ("salient_ratio", 0.01),
        ("activation_method", "rms"), ("verbose", True),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    function = getattr(metal_marlin, name)
    assert getattr(awq_module, name) is function
    parameters = list(inspect.signature(function).parameters.values())
    for parameter, wanted in zip(parameters, SIGNATURES[name]):
        wanted_name, default = wanted if isinstance(wanted, tuple) else (wanted, inspect.Parameter.empty)
        assert parameter.name == wanted_name
        assert parameter.default == default
    assert all(p.default is not inspect.Parameter.empty for p in parameters[len(SIGNATURES[name]) :])
    assert function.__doc__


def test_names_and_constants():
    for name in [*SIGNATURES, "AWQResult"]:
        assert name in metal_marlin.__all__
        assert name in awq_module.__all__
    assert [f.name for f in fields(AWQResult)] == [
        "Q", "scales", "zeros", "q_scale", "quantization_error", "salient_ratio", "meta",
    ]  # fmt: skip
    constants = {n: getattr(awq_module, n) for n in dir(awq_module) if n.isupper() and n[0] != "_"}
    assert constants == {
        "AWQ_SALIENT_RATIO": 0.01, "AWQ_DEFAULT_GROUP_SIZE": 128, "FP4_PER_U32": 8, "AWQ_QUANT_BITS": 4, "AWQ_MAX_INT4": 7,
    }  # fmt: skip


# ---- the seven parts --------------------------------------------------------------------------------------------------


def test_compute_activation_stats():
    x = case()[1] * np.linspace(0.5, 2, K, dtype=np.float32)
    wide = x.astype(np.float64).reshape(-1, K)
    expected = {"mean": np.abs(wide).mean(0), "max": np.abs(wide).max(0), "rms": np.sqrt((wide**2).mean(0))}
    for method, values in expected.items():
        for given in (x, x.reshape(-1, K), x.transpose(1, 0, 2), x.astype(np.float64)):
            stats = compute_activation_stats(given, method)
            assert stats.shape == (K,) and stats.dtype == np.float32
            np.testing.assert_allclose(stats, values, rtol=1e-6)
    # Squares of float16 overflow above 255.
    large = np.full((1, 4, 8), 30000, np.float16)
    np.testing.assert_allclose(compute_activation_stats(large), 30000, rtol=1e-3)


def test_find_salient_weights():
    weights, x = case(outliers=50)
    stats = compute_activation_stats(x)
    for ratio in (0, 0.005, 0.01, 0.02, 1):
        mask, importance = find_salient_weights(weights, stats, ratio)
        assert mask.shape == (K, N) and mask.dtype == np.bool_
        assert mask.sum() == int(np.floor(ratio * weights.size + 0.5))
        np.testing.assert_allclose(importance, stats / stats.max(), rtol=1e-6)
        scores = (stats / stats.max())[:, None] * (np.abs(weights) / np.abs(weights).max())
        if 0 < ratio < 1:
            assert scores[mask].min() >= scores[~mask].max()
    ties, _ = find_salient_weights(np.zeros((K, N), np.float32), np.ones(K, np.float32), 0.01)
    assert ties.ravel()[:1311].all() and ties.sum() == 1311


def test_compute_salient_scaling():
    weights, x = case(outliers=8, seed=3)
    stats = compute_activation_stats(x)
    mask, _ = find_salient_weights(weights, stats, 0.01)
    scales = np.abs(weights.reshape(-1, GROUP, N)).max(1) / 7
    rows = x.reshape(-1, K).astype(np.float64)
    gram = rows.T @ rows / len(rows)
    chosen = mask.mean(1) >= 0.1
    assert 0 < chosen.sum() <= 8
    for extra in ({}, {"activation_stats": stats}, {"activation_stats": stats, "gram": gram}):
        factors = compute_salient_scaling(weights, mask, scales, GROUP, **extra)
        assert factors.shape == (K,) and factors.dtype == np.float32
        assert (factors[~chosen] == 1).all() and (factors[chosen] > 1).all()

    # It lowers what it minimises: the error of the outputs.
    def error(s):
        w = weights * s[:, None]
        return np.linalg.norm(rows @ (round_to_nearest(w) / s[:, None] - weights))

    assert error(factors) < 0.9 * error(np.ones(K, np.float32))
    assert (compute_salient_scaling(weights, np.zeros_like(mask), scales, GROUP) == 1).all()


def test_pack_awq_weights():
    codes = rng().integers(-8, 8, (K, N)).astype(np.int8)
    codes[:16, 0] = np.arange(-8, 8)
    scales = np.ones((K // GROUP, N), np.float16)
    zeros = np.zeros_like(scales)
    packed, meta = pack_awq_weights(codes, scales, zeros, GROUP)
    assert packed.shape == (K // 8, N) and packed.dtype == np.uint32
    assert {k: meta[k] for k in ("in_features", "out_features", "group_size", "quant_type")} == {
        "in_features": K, "out_features": N, "group_size": GROUP, "quant_type": "awq_int4",
    }  # fmt: skip
    for i in range(8):
        np.testing.assert_array_equal((packed >> np.uint32(4 * i)) & 15, codes[i::8] + 8)
    np.testing.assert_array_equal(unpack_awq_weights(packed, meta), codes)
    np.testing.assert_array_equal(unpack_awq_weights(packed[:, ::-1], meta), codes[:, ::-1])
    np.testing.assert_array_equal(pack_awq_weights(np.asfortranarray(codes), scales, zeros)[0], packed)


def test_golden_native():
    """tests/data/formats/native.safetensors, whose values another implementation computed."""
    import json
    import struct

    raw = (MODEL.parents[1] / "formats" / "native.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    types = {"F32": np.float32, "F16": np.float16, "U32": np.uint32, "I8": np.int8}
    golden = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + o for o in entry["data_offsets"])
            golden[name] = np.frombuffer(raw[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    meta = {"in_features": 256, "out_features": 32, "group_size": 128, "quant_type": "awq_int4"}
    for scheme in ("own.sym", "own.asym"):
        parts = (golden[f"{scheme}.weight{part}"] for part in ("", ".scales", ".zeros", ".q_scale"))
        np.testing.assert_array_equal(awq_dequantize(*parts, meta, np.float32), golden[f"{scheme}.dequant_f32"])
    packed, _ = pack_awq_weights(golden["in.full_range"], np.ones((1, 16)), np.zeros((1, 16)))
    np.testing.assert_array_equal(packed, golden["own.full_range_packed"])


@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_awq_quantize_dequantize(scheme):
    weights, x = case(outliers=10)
    result = awq_quantize(weights, x, GROUP, 0.01, "rms", scheme=scheme)
    groups = K // GROUP
    for array, shape, dtype in [
        (result.Q, (K // 8, N), np.uint32), (result.scales, (groups, N), np.float16),
        (result.zeros, (groups, N), np.float16), (result.q_scale, (K,), np.float16),
    ]:  # fmt: skip
        assert array.shape == shape and array.dtype == dtype
    assert result.salient_ratio == 0.01
    assert (result.zeros == np.rint(result.zeros)).all() and np.abs(result.zeros).max() <= 8
    assert (result.zeros == 0).all() == (scheme == "sym")
    expected = reference_dequantize(result.Q, result.scales, result.zeros, result.q_scale, K)
    meta = {"in_features": K, "out_features": N, "group_size": GROUP, "quant_type": "awq_int4"}
    values = awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, meta)
    assert values.shape == (K, N) and values.dtype == np.float16
    np.testing.assert_array_equal(values, expected.astype(np.float16))
    np.testing.assert_array_equal(restored(result), expected)
    assert result.quantization_error == pytest.approx(((expected.astype(np.float64) - weights) ** 2).sum(), rel=1e-4)
    outputs = x.reshape(-1, K) @ weights
    assert result.output_error == pytest.approx(relative(x.reshape(-1, K) @ expected, outputs), rel=1e-3)
    codes = unpack_awq_weights(result.Q, result.meta)
    assert codes.min() == -8 and codes.max() == 7


def quality(scheme: str) -> float:
    r = rng(42)
    weights = (r.standard_normal((1024, 512)) * 0.1).astype(np.float32)
    x = r.standard_normal((20, 256, 1024)).astype(np.float32)
    x[:, :, :100] *= 2
    error = relative(restored(awq_quantize(weights, x, scheme=scheme)), weights)
    assert (
        error < 0.1170
    )  # what was claimed of the earlier numpy implementation (docs/migrating.md); plain rounding by absmax / 7 has 0.1176
    return error


@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_reconstruction_quality(scheme):
    assert quality(scheme) < (0.103 if scheme == "sym" else 0.097)


@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_outliers_beat_rounding(scheme):
    weights, x = case(1024, 512, outliers=20, seed=1)
    rows = x.reshape(-1, 1024)
    outputs = rows @ weights
    plain = relative(rows @ round_to_nearest(weights), outputs)
    assert relative(rows @ restored(awq_quantize(weights, x, scheme=scheme)), outputs) < 0.7 * plain


def test_salient_ratio_decides():
    """Many outlier channels much alike: the more weights count as salient, the more channels are scaled, the less the error.

    Not so for every input: docs/awq.md has cases without this order.
    """
    r = rng(7)
    weights = (r.standard_normal((1024, 256)) * 0.1).astype(np.float32)
    x = r.standard_normal((2048, 1024)).astype(np.float32)
    x[:, r.permutation(1024)[:120]] *= np.geomspace(5, 12, 120, dtype=np.float32)
    results = [awq_quantize(weights, x, salient_ratio=ratio) for ratio in (0, 0.005, 0.01, 0.02)]
    channels = [result.meta["salient_channels"] for result in results]
    errors = [result.output_error for result in results]
    assert channels[0] == 0 and channels == sorted(set(channels))
    assert errors == sorted(set(errors), reverse=True)
    assert (results[0].q_scale == 1).all() and (results[3].q_scale > 1).sum() == channels[3]


def test_edge_cases():
    x = case()[1]
    zero = awq_quantize(np.zeros((K, N), np.float32), x)
    assert zero.quantization_error == 0 and (restored(zero) == 0).all()
    for factor in (100, 1e6, 1e-6):  # scales leave float16 in the last two, unless q_scale moves
        weights = case(64, 32)[0] * np.float32(factor)
        result = awq_quantize(weights, x[:, :, :64], 32)
        assert np.isfinite(result.q_scale).all() and (result.q_scale != 0).all()
        assert relative(restored(result), weights) < 0.12
    for k, group in ((200, 128), (200, 64), (8, 128), (13, 5), (1, 1), (36, 20)):
        weights = case(k, 24)[0]
        result = awq_quantize(weights, x[:, :, :k], group)
        assert result.meta["padded_in_features"] == result.Q.shape[0] * 8 >= k
        assert result.scales.shape == (-(-k // group), 24) and result.q_scale.shape == (k,)
        assert restored(result).shape == (k, 24)
        assert relative(restored(result), weights) < 0.12
        small = {n: result.meta[n] for n in ("in_features", "out_features", "group_size", "quant_type")}
        np.testing.assert_array_equal(
            awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, small, "float32"), restored(result)
        )


# ---- inputs of all kinds ----------------------------------------------------------------------------------------------


def test_types_and_strides():
    weights, x = case()
    weights = weights.astype(np.float16).astype(np.float32)
    x = x.astype(np.float16).astype(np.float32)
    expected = awq_quantize(weights, x)
    given = [
        (weights.astype(np.float16), x.astype(np.float16)),
        (weights.astype(np.float64), x.astype(np.float64)),
        (np.asfortranarray(weights), np.asfortranarray(x)),
        (np.ascontiguousarray(weights[::-1])[::-1], np.repeat(x, 2, axis=2)[:, :, ::2]),
        (weights.astype(">f4"), x.astype(">f8")),
        (np.array(weights.tolist()), x),
    ]
    read_only = weights.copy()
    read_only.flags.writeable = False
    given.append((read_only, x))
    for w, a in given:
        result = awq_quantize(w, a)
        for name in ("Q", "scales", "zeros", "q_scale"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights, x = (a.astype(ml_dtypes.bfloat16) for a in case())
    result = awq_quantize(weights, x)
    same = awq_quantize(weights.astype(np.float32), x.astype(np.float32))
    np.testing.assert_array_equal(result.Q, same.Q)
    values = restored(result, "bfloat16")
    assert values.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(values, restored(result).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_output_backend(backend, monkeypatch):
    weights, x = case(64, 32)
    try:
        module = __import__("torch" if backend == "torch" else "mlx.core", fromlist=["core"])
    except ImportError:
        with pytest.raises(ImportError, match=f"output_backend.*pip install {backend}"):
            awq_quantize(weights, x[:, :, :64], 32, output_backend=backend)
        return
    make = module.from_numpy if backend == "torch" else module.array
    result = awq_quantize(make(weights), make(np.ascontiguousarray(x[:, :, :64])), 32, output_backend=backend)
    expected = awq_quantize(weights, x[:, :, :64], 32)
    np.testing.assert_array_equal(np.asarray(result.Q), expected.Q)
    values = awq_dequantize(result.Q, result.scales, result.zeros, result.q_scale, result.meta, output_backend=backend)
    np.testing.assert_array_equal(np.asarray(values), restored(expected, "float16"))
    # The type's bits need no ml_dtypes there.
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    narrow = awq_dequantize(
        result.Q, result.scales, result.zeros, result.q_scale, result.meta, "bfloat16", output_backend=backend
    )
    assert narrow.dtype == module.bfloat16
    wide = restored(expected)
    assert (
        np.abs(np.asarray(narrow.float() if backend == "torch" else narrow.astype(module.float32)) - wide).max()
        <= np.abs(wide).max() / 256
    )
    with pytest.raises(ImportError, match="weights_dtype.*pip install ml_dtypes"):
        restored(expected, "bfloat16")


def test_threads_and_interrupt():
    weights, x = case()
    results: list[AWQResult] = []
    threads = [threading.Thread(target=lambda: results.append(awq_quantize(weights, x))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 3 and all((r.Q == results[0].Q).all() for r in results)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    # A shell starts jobs in the background with the signal ignored, and Python keeps that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            end = time.monotonic() + 30
            while time.monotonic() < end:
                awq_quantize(weights, x)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- bad input --------------------------------------------------------------------------------------------------------

NAN = np.full((1, 4, K), np.nan, np.float32)
BAD = [
    (ValueError, "weights", {"weights": np.zeros(K, np.float32)}),
    (ValueError, "weights", {"weights": np.zeros((0, N), np.float32)}),
    (ValueError, "weights", {"weights": np.full((K, N), np.inf, np.float32)}),
    (TypeError, "weights", {"weights": np.zeros((K, N), np.int32)}),
    (TypeError, "weights", {"weights": np.zeros((K, N), np.complex64)}),
    (TypeError, "weights", {"weights": None}),
    (TypeError, "weights", {"weights": "weights"}),
    (ValueError, "activations", {"activations": np.zeros((1, 4, K + 1), np.float32)}),
    (ValueError, "activations", {"activations": np.zeros(K, np.float32)}),
    (ValueError, "activations", {"activations": np.zeros((1, 1, 4, K), np.float32)}),
    (ValueError, "activations", {"activations": np.zeros((1, 0, K), np.float32)}),
    (ValueError, "activations", {"activations": NAN}),
    (TypeError, "activations", {"activations": np.zeros((1, 4, K), np.int64)}),
    (ValueError, "group_size", {"group_size": 0}),
    (ValueError, "group_size", {"group_size": -1}),
    (ValueError, "group_size", {"group_size": 2**40}),
    (ValueError, "group_size", {"group_size": 2**63 - 1}),
    (ValueError, "activations", {"activations": np.full((1, 4, K), 1e20, np.float32)}),  # finite, but not their squares
    (TypeError, "group_size", {"group_size": 128.0}),
    (ValueError, "salient_ratio", {"salient_ratio": -0.01}),
    (ValueError, "salient_ratio", {"salient_ratio": 1.01}),
    (ValueError, "salient_ratio", {"salient_ratio": float("nan")}),
    (TypeError, "salient_ratio", {"salient_ratio": "1%"}),
    (ValueError, "activation_method", {"activation_method": "median"}),
    (ValueError, "output_backend", {"output_backend": "jax"}),
    (ValueError, "scheme", {"scheme": "signed"}),
]


@pytest.mark.parametrize("error, name, changed", BAD)
def test_bad_input(error, name, changed):
    weights, x = case()
    with pytest.raises(error, match=f"{name}: expected"):
        awq_quantize(**{"weights": weights, "activations": x, **changed})


def test_bad_parts():
    weights, x = case()
    stats = compute_activation_stats(x)
    codes = np.zeros((K, N), np.int8)
    ones = np.ones((K // GROUP, N), np.float16)
    result = awq_quantize(weights, x)
    parts = (result.Q, result.scales, result.zeros, result.q_scale)
    checks = [
        (ValueError, "method", lambda: compute_activation_stats(x, "median")),
        (ValueError, "activation_stats", lambda: find_salient_weights(weights, stats[:-1])),
        (ValueError, "activation_stats", lambda: find_salient_weights(weights, -stats)),
        (TypeError, "salient_mask", lambda: compute_salient_scaling(weights, codes, ones, GROUP)),
        (ValueError, "scales", lambda: compute_salient_scaling(weights, codes > 0, ones[1:], GROUP)),
        (ValueError, "weights", lambda: pack_awq_weights(codes + np.int8(8), ones, ones, GROUP)),
        (TypeError, "weights", lambda: pack_awq_weights(weights, ones, ones, GROUP)),
        (ValueError, "zeros", lambda: pack_awq_weights(codes, ones, ones * 0.5, GROUP)),
        (ValueError, "meta: quant_type", lambda: awq_dequantize(*parts, {**result.meta, "quant_type": "fp4"})),
        (ValueError, "meta: expected the key", lambda: awq_dequantize(*parts, {"in_features": K})),
        (
            ValueError,
            "packed",
            lambda: awq_dequantize(*parts, {**result.meta, "in_features": K + 8, "padded_in_features": 0}),
        ),
        (ValueError, "q_scale", lambda: awq_dequantize(*parts[:3], np.ones(N, np.float16), result.meta)),
        (TypeError, "packed", lambda: awq_dequantize(codes, *parts[1:], result.meta)),
        (ValueError, "weights_dtype", lambda: awq_dequantize(*parts, result.meta, np.int32)),
        (FileNotFoundError, "file", lambda: awq_load("/nonexistent.awq.safetensors")),
    ]
    for error, name, call in checks:
        with pytest.raises(error, match=name):
            call()


# ---- files ------------------------------------------------------------------------------------------------------------


def write_safetensors(path, tensors):
    import json
    import struct

    names = {"float32": "F32", "float16": "F16", "uint32": "U32"}
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_files_of_the_original(tmp_path):
    """Offset 7, q_scale per output channel, zeros in units of weights, no metadata; K equals N, so no shape tells."""
    r = rng(5)
    k = n = 128
    nibbles = r.integers(0, 15, (k, n)).astype(np.uint32)
    packed = sum(nibbles[i::8] << np.uint32(4 * i) for i in range(8)).astype(np.uint32)
    scales = r.uniform(0.01, 0.02, (1, n)).astype(np.float16)
    zeros = np.zeros((1, n), np.float16)
    q_scale = r.uniform(1, 2, n).astype(np.float16)
    tensors = {"a.weight": packed, "a.weight.scales": scales, "a.weight.zeros": zeros, "a.weight.q_scale": q_scale}
    write_safetensors(tmp_path / "m.awq.safetensors", tensors)
    loaded = awq_load(tmp_path / "m.awq.safetensors")["a.weight"]
    assert loaded.meta["code_offset"] == 7
    expected = (nibbles.astype(np.float32) - 7) * scales.astype(np.float32) / q_scale.astype(np.float32)
    np.testing.assert_allclose(restored(loaded), expected, rtol=1e-6)


def test_quantize_files_of_tensors(tmp_path, capsys):
    """Without a config: tensor by tensor, Hugging Face's [out, in]."""
    weights, x = case(256, 64, outliers=4)
    bare = {
        "b.q_proj.weight": np.ascontiguousarray(weights.T), "b.k_proj.weight": np.ascontiguousarray(weights.T),
        "b.input_norm.weight": np.ones(256, np.float32), "b.mlp.gate.weight": np.ascontiguousarray(weights.T),
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    write_safetensors(tmp_path / "model" / "part.safetensors", bare)
    np.savez(tmp_path / "x.npz", **{"b.q_proj": x})
    stats = awq_quantize_model(tmp_path / "model", tmp_path / "out", tmp_path / "x.npz", 128)
    assert {k: stats[k] for k in ("quantized_count", "skipped_count", "quant_type", "group_size", "salient_ratio")} == {
        "quantized_count": 1, "skipped_count": 3, "quant_type": "awq_int4", "group_size": 128, "salient_ratio": 0.01,
    }  # fmt: skip
    loaded = awq_load(tmp_path / "out" / "part.awq.safetensors")
    result = awq_quantize(weights, x)
    assert list(loaded) == ["b.q_proj.weight"]
    np.testing.assert_array_equal(restored(loaded["b.q_proj.weight"]), restored(result))
    assert stats["original_bytes"] == weights.nbytes
    assert (
        stats["quantized_bytes"] == result.Q.nbytes + result.scales.nbytes + result.zeros.nbytes + result.q_scale.nbytes
    )
    assert stats["compression_ratio"] == pytest.approx(stats["original_bytes"] / stats["quantized_bytes"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  Processing: part.safetensors"
    with pytest.raises(
        ValueError,
        match="group_size: expected a divisor of the in_features of some matrix, such as 256 of part.safetensors: b.*found 96",
    ):
        awq_quantize_model(tmp_path / "model", tmp_path / "none", tmp_path / "x.npz", 96, verbose=False)
    assert "  Warning: Missing activations for b.k_proj.weight, skipping" in lines
    assert lines[-3:] == [
        "  Quantized: 1 tensors",
        "  Skipped: 3 tensors",
        f"  Compression: {stats['compression_ratio']:.2f}x",
    ]


def test_no_pickle(tmp_path):
    weights, _ = case(256, 64)
    write_safetensors(tmp_path / "m.safetensors", {"w.weight": np.ascontiguousarray(weights.T)})
    np.savez(tmp_path / "x.npz", **{"w": np.array([{"a": 1}], object)})
    with pytest.raises(ValueError, match="x.npz"):
        awq_quantize_model(tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "x.npz", verbose=False)
    np.savez(tmp_path / "other.npz", **{"v": np.ones((1, 4, 256), np.float32)})
    with pytest.raises(ValueError, match=r'other.npz: expected .* "w.weight" of shape \[B, T, 256\]'):
        awq_quantize_model(tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "other.npz", verbose=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="activations_path"):
        awq_quantize_model(tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "none.npz", verbose=False)


def test_quantize_model_by_activations(tmp_path):
    """With a config: by the model's structure, folded, a folder that loads."""
    npz = tmp_path / "x.npz"
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the rain. " * 80)
    metal_marlin.calibrate_model(
        MODEL, npz, calibration=str(text), samples=4, sequence_length=32, keep_activations=True
    )
    stats = awq_quantize_model(MODEL, tmp_path / "out", npz, 8, verbose=False)
    assert stats["quantized_count"] == 14 and stats["compression_ratio"] == 4  # float32 to 4 bits + 32 per group of 8
    assert {"quantized_count", "skipped_count", "original_bytes", "quantized_bytes", "quant_type", "group_size", "salient_ratio",
            "compression_ratio"} <= set(stats)  # fmt: skip
    tensors = awq_load(tmp_path / "out" / "model.awq.safetensors")
    assert len(tensors) == stats["quantized_count"]
    assert metal_marlin.compare(MODEL, tmp_path / "out")["relative_error"] < 0.2
    metal_marlin.convert(tmp_path / "out", tmp_path / "gptq", "gptq_v2")
    assert metal_marlin.inspect(tmp_path / "gptq")["linears"] == metal_marlin.inspect(MODEL)["linears"]
    with np.load(npz) as arrays:
        np.savez(tmp_path / "some.npz", **{k: v for k, v in arrays.items() if k != "layers.1.down.rms"})
        raw = {k: v for k, v in arrays.items() if k.endswith("_proj.weight")}
    with pytest.raises(ValueError, match="some.npz.*layers.1.down.rms"):
        awq_quantize_model(MODEL, tmp_path / "other", tmp_path / "some.npz", 8, verbose=False)
    # Raw activations alone give the same as the statistics made of them.
    np.savez(tmp_path / "raw.npz", **raw)
    awq_quantize_model(MODEL, tmp_path / "again", tmp_path / "raw.npz", 8, verbose=False)
    first, second = (awq_load(tmp_path / f / "model.awq.safetensors") for f in ("out", "again"))
    assert all(relative(restored(second[n]), restored(first[n])) < 0.01 for n in first)
    key = "model.layers.0.mlp.down_proj.weight"
    raw[key] = np.where(np.arange(raw[key].shape[-1]) == 3, np.float32(np.nan), raw[key])
    np.savez(tmp_path / "nan.npz", **raw)
    with pytest.raises(ValueError, match=f"nan.npz: {key}: expected finite activations.*channel 3"):
        awq_quantize_model(MODEL, tmp_path / "nan", tmp_path / "nan.npz", 8, verbose=False)


def test_results_are_objects(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the rain. " * 80)
    options = {"calibration": text, "samples": 4, "sequence_length": 32}
    made = metal_marlin.calibrate_model(MODEL, tmp_path / "x.npz", **options)
    assert made.sequences == made["sequences"] == 4 and made.tokens == 128 and made.output == str(tmp_path / "x.npz")
    result = metal_marlin.quantize_model(
        MODEL, tmp_path / "out", group_size=8, formats="awq", evaluate="none", **options
    )
    assert repr(result) == f"QuantizeResult({result.report.model.bytes / 1e6:.1f} MB, out)" and {result: 1}[result] == 1
    assert result._repr_html_().startswith("<table>")
    assert result.to_dict() == json.loads(result.to_json())
    assert result.to_dict()["report"] == result.report.to_dict() and result.to_dict()["passed_gate"] is True
    plain, packed = metal_marlin.inspect(MODEL), metal_marlin.inspect(tmp_path / "out", tensors=False)
    assert plain.config.hidden_size == plain["config"]["hidden_size"] == 32
    assert [t.name for t in plain.tensors] == [t["name"] for t in plain["tensors"]]
    assert packed.grids[0].bits == 4 and packed.quantization["quant_method"] == "awq"
    # What JSON leaves out is no item.
    assert plain.quantization is None and "quantization" not in plain and "quantization" in packed
    assert packed.tensors is None and packed.get("tensors", 7) == 7 and "tensors" not in packed.to_dict()
    with pytest.raises(KeyError):
        packed["tensors"]
    compared = metal_marlin.compare(MODEL, tmp_path / "out")
    assert 0 < compared.relative_error == compared["relative_error"] < 0.5
    assert compared.layers[1].layer == 1 and compared.tensors[0].stored_as == ["F32", "awq"]
    converted = metal_marlin.convert(tmp_path / "out", tmp_path / "gptq", "gptq_v2")
    assert converted.from_ == converted["from"] == converted.to_dict()["from"] == "awq" and converted.to == "gptq_v2"
    assert converted.group_size == 8 and not converted.clamped and converted.files[0].bytes > 0
    changed = metal_marlin.diff(MODEL, tmp_path / "out", limit=1)
    assert not changed.equal and changed.changed_linears == 14 and len(changed.linear_changes) == 1
    judged = metal_marlin.check(tmp_path / "out", "transformers")
    assert judged.verdict == "loads" and judged.findings[-1].source
    with pytest.raises(metal_marlin.ArgumentError, match="tensor"):
        metal_marlin.check(tmp_path / "out", "mlx", tensor_parallel=2)
    for result in (plain, packed, compared, converted, made, changed, judged):
        assert type(result).from_json(result.to_json()).to_dict() == result.to_dict() == json.loads(result.to_json())
        assert len(repr(result)) < 1500 and "<table>" in result._repr_html_()
    command = json.loads(metal_marlin._core.inspect_model(str(MODEL), True))
    assert plain.to_dict() == command and set(plain) == set(command)


def at_fault(call):
    with pytest.raises(metal_marlin.ArgumentError) as caught:
        call()
    return caught.value.option


def test_argument_errors_name_the_parameter(tmp_path):
    """`.option` is a parameter of the function, for every option that has a value out of its range or choices."""

    def wrong_values(parameter):
        hint = str(parameter.annotation)
        if "Literal" in hint or "Format" in hint:
            return ["awk"]
        if "Sequence[float]" in hint:
            return [[-1.0]]
        return [-3] if "int" in hint else [float("nan"), -3.0] if "float" in hint else []

    model = metal_marlin.load(MODEL)
    calls = {
        metal_marlin.plan_quantization: lambda **o: metal_marlin.plan_quantization(MODEL, tmp_path / "o", **o),
        metal_marlin.sensitivity_of_model: lambda **o: metal_marlin.sensitivity_of_model(MODEL, **o),
        metal_marlin.calibrate_model: lambda **o: metal_marlin.calibrate_model(MODEL, tmp_path / "s.npz", **o),
        metal_marlin.evaluate: lambda **o: metal_marlin.evaluate(MODEL, "text", **o),
        metal_marlin.convert: lambda **o: metal_marlin.convert(MODEL, tmp_path / "c", "awq", **o),
        metal_marlin.load: lambda **o: metal_marlin.load(MODEL, **o),
        metal_marlin.generate: lambda **o: metal_marlin.generate(model, "the", **o),
    }
    checked = 0
    for function, call in calls.items():
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name.startswith("on_"):
                continue
            for value in wrong_values(parameter):
                if name == "seed" or (name in ("memory_bytes", "max_shard_bytes") and value < 0):
                    continue  # no number is out of range, or it is no such number: a TypeError
                assert at_fault(lambda: call(**{name: value})) == name, (function, name, value)  # noqa: B023
                checked += 1
    assert checked > 60
    assert at_fault(lambda: metal_marlin.quantize_model(MODEL, tmp_path / "o", memory_bytes=5)) == "memory_bytes"
    assert at_fault(lambda: model.generate("the", temp=101.0)) == "temp"
    assert at_fault(lambda: model.generate("the", repeat_penalty=1e-9)) == "repeat_penalty"
    assert at_fault(lambda: model.generate("the", stop="")) == "stop"
    assert at_fault(lambda: model.generate(["the", ""], predict=-2)) is None  # about several prompts
    with pytest.raises(TypeError, match="bits"):
        metal_marlin.sensitivity_of_model(MODEL, bits=8)
    with pytest.raises(metal_marlin.ArgumentError, match="bits=8: leaves no choice to mixed_bits") as caught:
        metal_marlin.quantize_model(
            MODEL, tmp_path / "o", bits=8, mixed_bits=True, max_kl=0.1, formats="native", group_size=8
        )
    assert caught.value.option == "bits"


# ---- whole models and GPTQ --------------------------------------------------------------------------------------------


def test_models(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the rain. " * 80)
    seen = []
    result = metal_marlin.quantize_model(
        MODEL, tmp_path / "out", method="rtn", group_size=8, scheme="sym", calibration=text, samples=4, sequence_length=32,
        evaluate="none", on_progress=lambda p: seen.append(p["stage"]),
    )  # fmt: skip
    assert seen and result.passed_gate and result.report.schema == 1
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    report = result.report
    assert report.to_dict() == stored and json.loads(report.to_json()) == stored
    assert (
        report.linears[0].weight_error == report["linears"][0]["weight_error"] == stored["linears"][0]["weight_error"]
    )
    assert metal_marlin.Report.from_dict(stored).run.machine.threads == report.run.machine.threads
    assert len(repr(report)) < 2000 and "<list of 14>" in repr(report) and "<table>" in report._repr_html_()
    assert "weights" in report._repr_html_() or "verdict" in report._repr_html_()
    assert report.html().startswith("<!doctype html>") and "method" in report.text() and "verdict" in report.summary()
    with pytest.raises(AttributeError):
        report.linears[0].weight_eror  # noqa: B018
    with pytest.raises(TypeError, match="bytes"):
        metal_marlin.EvaluationRecord.from_dict({"positions": 1})
    figures = metal_marlin.evaluate(tmp_path / "out", text, MODEL, chunks=2, context=32)
    assert figures.perplexity.quantized > 1 and figures.kl_divergence.mean >= 0
    model = metal_marlin.load(tmp_path / "out")
    words: list[str] = []
    out = model.generate("the cat", predict=4, temp=0.0, on_text=words.append)
    assert out == "".join(words) and model.stats["generated_tokens"] <= 4
    schema = {"type": "integer", "minimum": 10, "maximum": 99}
    for given in (schema, json.dumps(schema)):
        assert 10 <= json.loads(model.generate("the cat", json_schema=given)) <= 99
    with pytest.raises(metal_marlin.FormatError, match="json_schema: .*uniqueItems"):
        model.generate("the cat", json_schema={"uniqueItems": True})
    plan = metal_marlin.plan_quantization(MODEL, tmp_path / "p", calibration=text, group_size=8, evaluate="none")
    assert plan.quantized[0].bits == 4 and plan.start == "fresh" and plan.memory.peak_bytes > plan.memory.block
    lines = tmp_path / "more.jsonl"
    lines.write_text('{"text": "the cat sat on the mat and looked at the rain."}\n' * 40)
    mixed = metal_marlin.quantize_model(
        MODEL, tmp_path / "mixed", method="rtn", group_size=8, calibration=[text, str(lines)], calibration_weights=[1, 3], samples=4,
        select=2, sequence_length=32, evaluate="none",
    )  # fmt: skip
    assert [s.sequences for s in mixed.report.calibration.sources] == [1, 3]
    assert len(mixed.report.calibration.selection.sequences) == 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'methods'"):
        metal_marlin.quantize_model(MODEL, tmp_path / "o", methods="rtn")
    with pytest.raises(metal_marlin.ArgumentError, match="method"):
        metal_marlin.quantize_model(MODEL, tmp_path / "o", method="rtm")
    with pytest.raises(metal_marlin.Interrupted):
        metal_marlin.quantize_model(
            MODEL,
            tmp_path / "o",
            method="rtn",
            group_size=8,
            calibration=text,
            evaluate="none",
            on_progress=lambda p: False,
        )
    with pytest.raises(ZeroDivisionError):
        metal_marlin.quantize_model(
            MODEL,
            tmp_path / "o",
            method="rtn",
            group_size=8,
            calibration=text,
            evaluate="none",
            on_progress=lambda p: 1 / 0,
        )


@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_gptq(scheme):
    weights, x = case(512, 128)
    r = rng(9)
    x = x @ (np.eye(512) + 0.2 * r.standard_normal((512, 512))).astype(np.float32)  # correlated inputs
    rows = x.reshape(-1, 512)
    result = gptq_quantize(weights, x, scheme=scheme)
    assert result.Q.shape == (64, 128) and result.scales.shape == (4, 128)
    values = gptq_dequantize(result.Q, result.scales, result.zeros, result.meta, "float32")
    outputs = rows @ weights
    error = relative(rows @ values, outputs)
    assert error == pytest.approx(result.output_error, rel=1e-3)
    assert error < 0.8 * relative(rows @ round_to_nearest(weights), outputs)
    assert result.quantization_error == pytest.approx(((values - weights) ** 2).sum(), rel=1e-3)
    with pytest.raises(ValueError, match="quant_type"):
        awq_dequantize(result.Q, result.scales, result.zeros, None, result.meta)


def test_script_form():
    out = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True).stdout
    assert "AWQ reconstruction quality: 0." in out and out.rstrip().splitlines()[-2] == "All AWQ tests passed! ✓"


def main() -> None:
    rule = "=" * 70
    print(f"{rule}\nRunning AWQ Tests\n{rule}\n")

    def passed(text: str) -> None:
        print(f"  ✓ {text}")

    test_compute_activation_stats()
    passed("compute_activation_stats tests passed")
    test_find_salient_weights()
    passed("find_salient_weights tests passed")
    test_compute_salient_scaling()
    passed("compute_salient_scaling tests passed")
    test_pack_awq_weights()
    passed("pack_awq_weights tests passed")
    for scheme in ("sym", "asym"):
        test_awq_quantize_dequantize(scheme)
    passed("awq_quantize/dequantize tests passed")
    passed(
        f"AWQ reconstruction quality: {quality('sym'):.4f} relative error (asymmetric {quality('asym'):.4f}; target < 0.1170)"
    )
    test_edge_cases()
    passed("AWQ edge cases tests passed")
    print(f"\n{rule}\nAll AWQ tests passed! ✓\n{rule}")


if __name__ == "__main__":
    main()
