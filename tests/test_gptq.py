#!/usr/bin/env python3
"""Tests of the functions of GPTQ that work by a Hessian."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest

import metal_marlin
from metal_marlin import (
    GPTQQuantizer,
    GPTQResult,
    compare_gptq_vs_rtn,
    compute_hessian,
    compute_hessian_streaming,
    pack_gptq_int4,
    quantize_layer_gptq,
    quantize_rtn,
)

N, K, GROUP = 40, 96, 32


def case(n: int = N, k: int = K, tokens: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and correlated inputs of channels of unlike strength."""
    r = np.random.default_rng(seed)
    mixing = np.eye(k) + 0.3 * r.standard_normal((k, k))
    x = (r.standard_normal((tokens, k)) @ mixing * np.exp(r.standard_normal(k))).astype(np.float32)
    return (r.standard_normal((n, k)) * 0.1).astype(np.float32), x


def groups(result: GPTQResult, k: int, group: int) -> np.ndarray:
    of = np.arange(k) // group
    if result.perm is None:
        return of
    by_column = np.empty(k, np.int64)
    by_column[result.perm] = of
    return by_column


def total_error(Q: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:
    e = Q.astype(np.float64) - W
    return float(((e @ H) * e).sum())


def textbook(W: np.ndarray, H: np.ndarray, result: GPTQResult, levels: int, damp: float, group: int) -> np.ndarray:
    """Algorithm 1 of arXiv 2210.17323 in float64, one column at a time, on the result's scales and zeros."""
    k = W.shape[1]
    order = np.arange(k) if result.perm is None else result.perm
    w = W.astype(np.float64)[:, order]
    h = H[np.ix_(order, order)].copy()
    mean = np.diag(h).mean()
    h[np.diag_indices(k)] += (damp + 1e-7) * mean
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.empty_like(w)
    for j in range(k):
        scale = result.scales[j // group].astype(np.float64)
        zero = np.full_like(scale, levels // 2) if result.zeros is None else result.zeros[j // group].astype(np.float64)
        q[:, j] = (np.clip(np.rint(w[:, j] / scale) + zero, 0, levels - 1) - zero) * scale
        w[:, j + 1 :] -= np.outer((w[:, j] - q[:, j]) / u[j, j], u[j, j + 1 :])
    out = np.empty_like(q)
    out[:, order] = q
    return out


def test_names_and_signatures():
    wanted = {
        "compute_hessian": [("normalize", True)],
        "compute_hessian_streaming": [("normalize_count", None)],
        "quantize_layer_gptq": [("bits", 4), ("group_size", 128), ("sym", True), ("actorder", True), ("damp", 0.01)],
        "quantize_rtn": [("bits", 4), ("group_size", 128), ("sym", True)],
        "pack_gptq_int4": [("perm", None)],
        "compare_gptq_vs_rtn": [("bits", 4), ("group_size", 128)],
    }  # fmt: skip
    for name, defaults in wanted.items():
        assert name in metal_marlin.__all__ and name in metal_marlin.gptq.__all__
        parameters = inspect.signature(getattr(metal_marlin, name)).parameters
        for parameter, default in defaults:
            assert parameters[parameter].default == default
    options = {n: p.default for n, p in inspect.signature(GPTQQuantizer).parameters.items()}
    assert options == {"bits": 4, "group_size": 128, "sym": True, "actorder": True, "damp": 0.01, "block_size": 128}
    assert [f.name for f in fields(GPTQResult)][:5] == ["Q", "scales", "zeros", "perm", "quantization_error"]


def test_hessian():
    _, x = case(tokens=1100)
    wide = x.astype(np.float64)
    H = compute_hessian(x)
    assert H.shape == (K, K) and H.dtype == np.float64 and (H == H.T).all()
    np.testing.assert_allclose(H, 2 * wide.T @ wide / len(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        compute_hessian(x.reshape(11, 100, K), normalize=False), 2 * wide.T @ wide, rtol=1e-12, atol=1e-9
    )
    streamed, add_batch = compute_hessian_streaming(K, 1100)
    for part in np.split(x, [7, 600]):
        add_batch(part)
    np.testing.assert_allclose(streamed, H, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="activations: expected in_features 96, found 95"):
        add_batch(x[:, :-1])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("actorder", [True, False])
def test_quantize_layer(bits, sym, actorder):
    W, x = case()
    H = compute_hessian(x)
    result = GPTQQuantizer(bits, GROUP, sym, actorder).quantize_weight(W, H)
    assert result.Q.shape == (N, K) and result.Q.dtype == np.float32
    assert result.scales.shape == (K // GROUP, N) and result.scales.dtype == np.float32
    assert (result.zeros is None) == sym and (result.perm is None) == (not actorder)
    if actorder:
        assert result.perm.dtype == np.int64
        np.testing.assert_array_equal(result.perm, np.argsort(-np.diag(H), kind="stable"))
    of = groups(result, K, GROUP)
    zero = 2 ** (bits - 1) if sym else result.zeros[of].T
    codes = result.Q / result.scales[of].T + zero
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1
    assert result.quantization_error == pytest.approx(((result.Q - W) ** 2).sum(), rel=1e-4)
    assert result.total_error == pytest.approx(total_error(result.Q, W, H), rel=1e-3)
    # Single codes may fall to the other side in float32; what is minimised may not.
    reference = textbook(W, H, result, 2**bits, 0.01, GROUP)
    assert (np.abs(reference - result.Q) > 1e-5).mean() < 0.02
    assert result.total_error == pytest.approx(total_error(reference, W, H), rel=0.02)
    assert result.total_error < 0.7 * total_error(quantize_rtn(W, bits, GROUP, sym).Q, W, H)


def test_ragged_groups_and_whole_rows():
    W, x = case(24, 50)
    for group, count in ((32, 2), (-1, 1), (50, 1), (7, 8)):
        result = quantize_layer_gptq(W, x, group_size=group)
        assert result.scales.shape == (count, 24)
        assert result.total_error < total_error(quantize_rtn(W, 4, group).Q, W, compute_hessian(x))


def test_a_square_batch_is_no_hessian():
    W, x = case()
    square = x[:K]
    result = quantize_layer_gptq(W, square, 4, GROUP)
    expected = quantize_layer_gptq(W, compute_hessian(square), 4, GROUP, hessian=True)
    np.testing.assert_array_equal(result.Q, expected.Q)
    with pytest.raises(ValueError, match="H: expected"):
        quantize_layer_gptq(W, square, 4, GROUP, hessian=True)


def test_dead_channels_are_rounded():
    W, x = case()
    x[:, 5] = 0
    result = quantize_layer_gptq(W, x, 4, GROUP, actorder=False)
    step = result.scales[0]
    np.testing.assert_array_equal(result.Q[:, 5], np.clip(np.rint(W[:, 5] / step), -8, 7) * step)


def test_rtn():
    W, _ = case()
    result = quantize_rtn(W, 4, GROUP)
    s = (np.abs(W.reshape(N, -1, GROUP)).max(2) / 7).astype(np.float16).astype(np.float32)
    expected = np.clip(np.rint(W.reshape(N, -1, GROUP) / s[..., None]), -8, 7) * s[..., None]
    np.testing.assert_array_equal(result.Q, expected.reshape(N, K))
    np.testing.assert_array_equal(result.scales, s.T)
    assert result.zeros is None and result.perm is None and result.total_error is None


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("actorder", [True, False])
@pytest.mark.parametrize("k", [96, 50])
def test_pack(sym, actorder, k):
    W, x = case(k=k)
    result = quantize_layer_gptq(W, x, 4, GROUP, sym, actorder)
    packed, scales, zeros = pack_gptq_int4(result.Q, result.scales, result.zeros, GROUP, result.perm)
    assert packed.shape == (N, -(-k // 8)) and packed.dtype == np.uint32
    assert scales.dtype == zeros.dtype == np.float16 and scales.shape == zeros.shape == result.scales.shape
    codes = np.stack([(packed >> np.uint32(4 * i)) & 15 for i in range(8)], axis=2).reshape(N, -1)[:, :k]
    of = groups(result, k, GROUP)
    values = (codes.astype(np.float32) - 8 - zeros.astype(np.float32)[of].T) * scales.astype(np.float32)[of].T
    np.testing.assert_array_equal(values, result.Q)
    if actorder:
        with pytest.raises(ValueError, match="Q: expected .* perm"):
            pack_gptq_int4(result.Q, result.scales, result.zeros, GROUP)


def test_compare():
    W, x = case()
    H = compute_hessian(x)
    figures = compare_gptq_vs_rtn(W, H, 4, GROUP)
    rtn, gptq = quantize_rtn(W, 4, GROUP), GPTQQuantizer(4, GROUP).quantize_weight(W, H)
    assert figures == pytest.approx({
        "rtn_mse": ((rtn.Q - W) ** 2).mean(), "gptq_mse": ((gptq.Q - W) ** 2).mean(),
        "rtn_total_error": total_error(rtn.Q, W, H), "gptq_total_error": total_error(gptq.Q, W, H),
        "improvement_ratio": total_error(rtn.Q, W, H) / total_error(gptq.Q, W, H),
    }, rel=1e-3)  # fmt: skip
    assert figures["improvement_ratio"] > 1.4


def test_bad_input():
    W, x = case()
    H = compute_hessian(x)
    good = quantize_layer_gptq(W, x, 4, GROUP)
    bad_h = H.copy()
    bad_h[3, 3] = -1
    checks = [
        (ValueError, "bits", lambda: GPTQQuantizer(bits=5)),
        (TypeError, "bits", lambda: GPTQQuantizer(bits=4.0)),
        (ValueError, "group_size", lambda: GPTQQuantizer(group_size=0)),
        (ValueError, "group_size", lambda: quantize_rtn(W, 4, -2)),
        (TypeError, "sym", lambda: GPTQQuantizer(sym=1)),
        (TypeError, "actorder", lambda: GPTQQuantizer(actorder=None)),
        (ValueError, "damp", lambda: GPTQQuantizer(damp=1.5)),
        (ValueError, "damp", lambda: GPTQQuantizer(damp=float("nan"))),
        (ValueError, "block_size", lambda: GPTQQuantizer(block_size=64)),
        (ValueError, "W", lambda: quantize_rtn(W[0])),
        (ValueError, "W", lambda: quantize_rtn(W[:0])),
        (ValueError, "W", lambda: quantize_rtn(np.full_like(W, np.nan))),
        (TypeError, "W", lambda: quantize_rtn(W.astype(np.int32))),
        (ValueError, "H", lambda: quantize_layer_gptq(W, H[:-1], hessian=True)),
        (ValueError, "H", lambda: quantize_layer_gptq(W, bad_h, hessian=True)),
        (ValueError, "activations", lambda: quantize_layer_gptq(W, x[:, :-1])),
        (ValueError, "activations", lambda: quantize_layer_gptq(W, x[:0])),
        (TypeError, "hessian", lambda: quantize_layer_gptq(W, x, hessian=H)),
        (ValueError, "activations", lambda: compute_hessian(np.where(x > 3, np.inf, x))),
        (TypeError, "normalize", lambda: compute_hessian(x, 5)),
        (ValueError, "in_features", lambda: compute_hessian_streaming(0)),
        (ValueError, "normalize_count", lambda: compute_hessian_streaming(K, 0)),
        (ValueError, "Q", lambda: pack_gptq_int4(W, good.scales, None, GROUP, good.perm)),
        (ValueError, "scales", lambda: pack_gptq_int4(good.Q, good.scales[1:], None, GROUP, good.perm)),
        (ValueError, "zeros", lambda: pack_gptq_int4(good.Q, good.scales, good.scales, GROUP, good.perm)),
        (ValueError, "perm", lambda: pack_gptq_int4(good.Q, good.scales, None, GROUP, good.perm[1:])),
        (ValueError, "perm", lambda: pack_gptq_int4(good.Q, good.scales, None, GROUP, np.zeros(K, np.int64))),
        (TypeError, "perm", lambda: pack_gptq_int4(good.Q, good.scales, None, GROUP, np.zeros(K))),
        (ValueError, "bits", lambda: compare_gptq_vs_rtn(W, H, 6)),
    ]
    for error, name, call in checks:
        with pytest.raises(error, match=f"{name}: expected"):
            call()
