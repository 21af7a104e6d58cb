#!/usr/bin/env python3
"""Tests of quantize_matrix, and of what all results have in common."""

from __future__ import annotations

import inspect
import typing

import numpy as np
import pytest

import metal_marlin
from metal_marlin import (
    FP4GPTQQuantizer,
    GPTQMetal,
    GPTQQuantizer,
    MRGPTQQuantizer,
    QuantizedMatrix,
    awq_dequantize,
    awq_quantize,
    compute_activation_stats,
    compute_hessian,
    find_salient_weights,
    gptq_dequantize,
    gptq_quantize,
    pack_awq_weights,
    pack_gptq_int4,
    quantize_matrix,
    quantize_rtn,
)

N, K = 256, 512


def case(seed: int = 0, tokens: int = 4096) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [N, K], correlated inputs with channels of outliers, and more inputs of the same kind."""
    r = np.random.default_rng(seed)
    weight = (r.standard_normal((N, K)) * 0.05).astype(np.float32)
    mixing = np.eye(K) + 0.05 * r.standard_normal((K, K))
    strength = np.exp(0.5 * r.standard_normal(K))
    strength[r.choice(K, 8, replace=False)] *= 20
    x = (r.standard_normal((2 * tokens, K)) @ mixing * strength).astype(np.float32)
    return weight, x[:tokens], x[tokens:]


def output_error(values: np.ndarray, weight: np.ndarray, x: np.ndarray) -> float:
    outputs = x.astype(np.float64) @ weight.astype(np.float64).T
    return float(np.linalg.norm(x.astype(np.float64) @ values.astype(np.float64).T - outputs) / np.linalg.norm(outputs))


def by_hand(result: QuantizedMatrix) -> np.ndarray:
    """The formula of matrix.py."""
    g = np.arange(result.codes.shape[1]) // result.group_size
    steps = result.codes.astype(np.float32) - result.zeros.astype(np.float32)[:, g]
    return steps * result.scales.astype(np.float32)[:, g] / result.input_scale


def test_signature_is_that_of_a_model():
    parameters = inspect.signature(quantize_matrix).parameters
    wanted = {"method": "awq", "scheme": "asym", "bits": 4, "group_size": 128, "damping": None, "act_order": True}
    assert {name: parameters[name].default for name in wanted} == wanted
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in wanted)


def test_the_recipe_is_the_best_on_unseen_inputs():
    for seed in (0, 1):
        weight, x, unseen = case(seed)
        errors = {
            "awq": output_error(quantize_matrix(weight, x).dequantize(), weight, unseen),
            "awq, symmetric": output_error(quantize_matrix(weight, x, scheme="sym").dequantize(), weight, unseen),
        }
        for scheme in ("sym", "asym"):
            salient = awq_quantize(weight.T, x, scheme=scheme).dequantize("float32").T
            gptq = gptq_quantize(weight.T, x, scheme=scheme).dequantize("float32").T
            errors[f"awq_quantize, {scheme}"] = output_error(salient, weight, unseen)
            errors[f"gptq_quantize, {scheme}"] = output_error(gptq, weight, unseen)
        print(errors)
        assert min(errors, key=errors.__getitem__) == "awq"
        assert errors["awq, symmetric"] < min(errors["awq_quantize, sym"], errors["gptq_quantize, sym"])


@pytest.mark.parametrize("method", ["awq", "awq-paper", "awq-salient", "gptq", "rtn"])
@pytest.mark.parametrize("scheme", ["sym", "asym"])
def test_each_method_gives_what_it_says(method, scheme):
    weight, x, _ = case(tokens=1024)
    result = quantize_matrix(weight, x, method=method, scheme=scheme, group_size=100)
    assert result.shape == (N, K) and result.codes.dtype == np.uint8 and result.codes.max() <= 15
    assert result.scales.shape == result.zeros.shape == (N, 6) and result.scales.dtype == np.float16
    assert result.input_scale.shape == (K,) and (result.input_scale > 0).all()
    assert (result.input_scale == 1).all() == (method in ("gptq", "rtn"))
    values = result.dequantize()
    assert values.dtype == np.float32 and (values == by_hand(result)).all()
    assert (result.dequantize("float16") == values.astype(np.float16)).all()
    assert result.output_error == pytest.approx(output_error(values, weight, x), rel=1e-3)
    assert result.weight_error == pytest.approx(np.linalg.norm(values - weight) / np.linalg.norm(weight), rel=1e-3)
    if scheme == "sym":
        assert (result.zeros == 8).all()


def test_rounding_to_nearest_is_numpys():
    weight, _, _ = case()
    result = quantize_matrix(weight, method="rtn", scheme="sym", group_size=64)
    grouped = weight.reshape(N, -1, 64)
    scale = (np.abs(grouped).max(axis=2) / 7).astype(np.float16)
    codes = np.clip(np.rint(grouped / scale.astype(np.float32)[..., None]) + 8, 0, 15)
    assert (result.codes == codes.reshape(N, K)).all() and (result.scales == scale).all()
    assert result.output_error is None and result.rounding == "nearest" and result.damping == 0


def test_other_widths_groups_and_memory_layouts():
    weight, x, unseen = case(tokens=1024)
    three, eight = (output_error(quantize_matrix(weight, x, bits=b).dequantize(), weight, unseen) for b in (3, 8))
    assert eight < 0.01 < three
    rows = quantize_matrix(weight, x, method="gptq", group_size=-1)
    assert rows.scales.shape == (N, 1) and rows.group_size == K
    plain = quantize_matrix(weight, x)
    for w, y in ((np.asfortranarray(weight), x[::1]), (weight.astype(np.float64), x.astype(np.float64))):
        again = quantize_matrix(w, y)
        assert (again.codes == plain.codes).all() and (again.input_scale == plain.input_scale).all()
    one = quantize_matrix(weight, x[None])  # one sequence: its tokens are split as those of a matrix
    assert (one.codes == plain.codes).all()
    first = x.reshape(8, 128, K).copy()
    first[:, 0] *= 50
    assert quantize_matrix(weight, first).output_error == pytest.approx(
        output_error(quantize_matrix(weight, first).dequantize(), weight, first.reshape(-1, K)), rel=1e-3
    )


def test_few_tokens_are_not_fitted():
    weight, x, unseen = case()
    result = quantize_matrix(weight, x[:24])
    gptq = quantize_matrix(weight, x[:24], method="gptq", scheme="asym")
    assert output_error(result.dequantize(), weight, unseen) < output_error(gptq.dequantize(), weight, unseen)
    assert quantize_matrix(weight, x[:1]).shape == (N, K)
    silent = quantize_matrix(weight, np.zeros((16, K), np.float32))
    assert np.isfinite(silent.dequantize()).all()


def test_wrong_arguments():
    weight, x, _ = case(tokens=64)
    for arguments, error, text in [
        ((weight, x[:, :5]), ValueError, "inputs: expected in_features 512"),
        ((weight.T, x), ValueError, "inputs: expected in_features 256"),
        ((weight,), ValueError, "inputs: method awq needs inputs"),
        ((weight[0], x), ValueError, "weight: expected shape"),
        ((None, x), TypeError, "weight: expected an array"),
        ((weight * np.float32(np.nan), x), ValueError, "weight: expected finite"),
        ((weight * np.float32(1e8), x), ValueError, "float16 can hold"),
    ]:
        with pytest.raises(error, match=text):
            quantize_matrix(*arguments)
    for options, error, text in [
        ({"bits": 5}, ValueError, "bits: expected 3, 4"),
        ({"method": "best"}, ValueError, "method: expected one of awq, "),
        ({"scheme": "symm"}, ValueError, "scheme: expected one of asym, sym"),
        ({"group_size": 0}, ValueError, "group_size: expected 1 to"),
        ({"damping": 2}, ValueError, "damping: expected"),
        ({"damping": "much"}, TypeError, "damping: expected a number"),
        ({"act_order": 1}, TypeError, "act_order: expected a bool"),
    ]:
        with pytest.raises(error, match=text):
            quantize_matrix(weight, x, **options)
    with pytest.raises(metal_marlin.Interrupted):
        quantize_matrix(weight, x, on_progress=lambda progress: progress["stage"] != "round")


def results() -> list:
    """One of each class of results."""
    weight, x, _ = case(tokens=600)
    H = compute_hessian(x)
    layer = GPTQQuantizer().quantize_weight(weight, H)
    codes = np.zeros((K, N), np.int8)
    return [
        quantize_matrix(weight, x), awq_quantize(weight.T, x), gptq_quantize(weight.T, x), layer, quantize_rtn(weight),
        FP4GPTQQuantizer().quantize_weight(weight, H), MRGPTQQuantizer().quantize_layer(weight, H),
        GPTQMetal().quantize_weight_gptq(weight, H), find_salient_weights(weight.T, compute_activation_stats(x)),
        pack_awq_weights(codes, np.ones((4, N)), np.zeros((4, N))),
        pack_gptq_int4(layer.Q, layer.scales, layer.zeros, 128, layer.perm),
    ]  # fmt: skip


def test_results_are_short_hashable_and_comparable():
    made = results()
    assert len(set(made)) == len({type(r).__name__ for r in made}) + 1  # quantize_rtn's is a GPTQResult too
    for result in made:
        shown = repr(result)
        assert len(shown) < 200 and shown.startswith(type(result).__name__) and "array" not in shown, shown
        assert result == result and not result != result
        assert all(result != other for other in made if other is not result)
    quantized = [r for r in made if hasattr(r, "dequantize")]
    assert len(quantized) == 8
    for result in quantized:
        shown, values = repr(result), np.asarray(result.dequantize(), np.float32)
        turned = values.shape == (K, N)
        assert output_error(values.T if turned else values, case(tokens=600)[0], case(tokens=600)[1]) < 0.2, shown
        for fact in ("256", "512", "sym") if "fp4" not in shown else ("256", "512", "fp4"):
            assert fact in shown, shown
    x = np.ones((3, 8), np.float32)
    collector = metal_marlin.HessianCollector()
    collector.accumulate(x)
    for made_of, shown in {
        metal_marlin.GPTQQuantizer(bits=3): "GPTQQuantizer(bits=3, group_size=128, sym=True, actorder=True, damp=0.01)",
        metal_marlin.FP4GPTQQuantizer(): "FP4GPTQQuantizer(group_size=128, actorder=True, damp_factor=0.01, scale_method='mse_grid')",
        metal_marlin.MRGPTQQuantizer(): "MRGPTQQuantizer(bits=4, format='fp4', group_size=128, use_hadamard=True, "
        "hadamard_block_size=64, actorder=True, percdamp=0.01)",
        metal_marlin.GPTQMetal(): "GPTQMetal(device='cpu')",
        collector: f"HessianCollector(num_layers=1, n_samples=3, memory_bytes={collector.memory_bytes})",
    }.items():
        assert repr(made_of) == shown
    assert repr(made[0]).startswith(
        "QuantizedMatrix(shape=(256, 512), bits=4, group_size=128, scheme='asym', method='awq'"
    )


def test_arrays_are_of_the_declared_types():
    seen = 0
    for result in results():
        for name, hint in typing.get_type_hints(type(result)).items():
            value = getattr(result, name)
            declared = [h for h in (hint, *typing.get_args(hint)) if typing.get_origin(h) is np.ndarray]
            assert isinstance(value, np.ndarray) == (len(declared) == 1 and value is not None), name
            if isinstance(value, np.ndarray):
                dtype = typing.get_args(typing.get_args(declared[0])[1])[0]
                assert value.dtype == np.dtype(dtype), (type(result).__name__, name)
                seen += 1
    assert seen > 25


def test_dequantize_is_that_of_the_functions():
    weight, x, _ = case(tokens=600)
    awq, gptq = awq_quantize(weight.T, x), gptq_quantize(weight.T, x)
    assert (awq.dequantize() == awq_dequantize(awq.Q, awq.scales, awq.zeros, awq.q_scale, awq.meta)).all()
    assert (gptq.dequantize() == gptq_dequantize(gptq.Q, gptq.scales, gptq.zeros, gptq.meta)).all()
    assert gptq.dequantize("float32").dtype == np.float32


def test_the_origins_names_are_in_compat():
    for name in (
        "AWQResult awq_quantize awq_dequantize awq_quantize_model compute_activation_stats compute_salient_scaling "
        "find_salient_weights pack_awq_weights AWQ_SALIENT_RATIO AWQ_DEFAULT_GROUP_SIZE FP4_PER_U32 AWQ_QUANT_BITS "
        "AWQ_MAX_INT4 GPTQQuantizer FP4GPTQQuantizer MRGPTQQuantizer QuantizationFormat QuantizationReport GPTQMetal "
        "compute_hessian_metal HessianCollector LayerSensitivity MixedPrecisionConfig GPTQResult compute_hessian "
        "compute_hessian_streaming quantize_layer_gptq quantize_rtn pack_gptq_int4 compare_gptq_vs_rtn"
    ).split():
        assert hasattr(metal_marlin.compat, name), name
        assert getattr(metal_marlin, name, None) in (None, getattr(metal_marlin.compat, name))
