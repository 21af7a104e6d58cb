"""AWQ of one matrix at a time, and of a model by stored activations.

Shapes: K = in_features, N = out_features, G = groups of ``group_size`` input channels. Weights are ``[K, N]``; a
checkpoint's ``[out, in]`` must be transposed. What is stored stands for ::

    W'[k, n] = (code - 8 - zeros[g, n]) * scales[g, n] / q_scale[k]        g = k // group_size

Arrays may be of numpy (also bfloat16 of ml_dtypes), torch or mlx, of any strides, in float16, bfloat16, float32 or
float64. ``docs/awq.md`` describes everything with examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import _core
from ._arguments import backend, choice, dtype_name, existing_path, integer, number, path, to_backend

AWQ_SALIENT_RATIO: float = _core.AWQ_SALIENT_RATIO
AWQ_DEFAULT_GROUP_SIZE: int = _core.AWQ_DEFAULT_GROUP_SIZE
FP4_PER_U32: int = _core.FP4_PER_U32
AWQ_QUANT_BITS: int = _core.AWQ_QUANT_BITS
AWQ_MAX_INT4: int = _core.AWQ_MAX_INT4

__all__ = [
    "AWQResult", "awq_quantize", "awq_dequantize", "awq_quantize_model", "awq_load", "compute_activation_stats",
    "compute_salient_scaling", "find_salient_weights", "pack_awq_weights", "unpack_awq_weights",
    "AWQ_SALIENT_RATIO", "AWQ_DEFAULT_GROUP_SIZE", "FP4_PER_U32", "AWQ_QUANT_BITS", "AWQ_MAX_INT4",
]  # fmt: skip

_METHODS = ("mean", "max", "rms")


@dataclass
class AWQResult:
    """What :func:`awq_quantize` returns.

    ``meta`` holds what :func:`awq_dequantize` needs (``in_features``, ``out_features``, ``group_size``, ``quant_type``,
    ``padded_in_features``, ``code_offset``) and figures: ``output_error`` |X(W'-W)| / |XW|, ``weight_error``,
    ``exponent``, ``salient_weights``, ``salient_channels``, ``raised_scales``.
    """

    Q: Any  #: uint32 [padded K / 8, N]; bits 4i..4i+3 of Q[r, n] hold the code of row 8r + i
    scales: Any  #: float16 [G, N]
    zeros: Any  #: float16 [G, N], integers -8..7, all 0 with scheme "sym"
    q_scale: Any  #: float16 [K], per input channel
    quantization_error: float  #: sum of the squared errors of the weights
    salient_ratio: float  #: as given
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def output_error(self) -> float:
        """|X(W'-W)| / |XW| on the activations that were given."""
        return self.meta["output_error"]

    @property
    def weight_error(self) -> float:
        """|W'-W| / |W|."""
        return self.meta["weight_error"]


def _result(parts: tuple[Any, ...], output_backend: str, module: Any) -> AWQResult:
    arrays = [to_backend(a, output_backend, module) for a in parts[:4]]
    return AWQResult(*arrays, *parts[4:])


def compute_activation_stats(activations: Any, method: str = "rms") -> Any:
    """Statistic of each input channel, float32 ``[K]``, of activations ``[B, T, K]`` or ``[tokens, K]``.

    ``method`` is "mean" or "max" of the absolute values, or "rms".
    """
    return _core.compute_activation_stats(activations, choice("method", method, _METHODS))


def find_salient_weights(weights: Any, activation_stats: Any, salient_ratio: float = 0.01) -> tuple[Any, Any]:
    """``(salient_mask, per_channel_importance)``: bool ``[K, N]`` and float32 ``[K]``.

    Exactly ``round(salient_ratio * K * N)`` weights are salient: those with the largest
    ``stat_k / max(stat) * |w_kn| / max|w|``, ties by index. The importance is ``stat / max(stat)``.
    """
    return _core.find_salient_weights(weights, activation_stats, number("salient_ratio", salient_ratio))


def compute_salient_scaling(
    weights: Any, salient_mask: Any, scales: Any, group_size: int, activation_stats: Any = None, gram: Any = None
) -> Any:
    """Factor of each input channel, float32 ``[K]``, at least 1.

    Channels of which at least a tenth of the weights is salient get ``max(stat / median(stat), 1) ** r`` with the ``r``
    whose output error is least; the others get 1. ``scales [G, N]`` are those of the unscaled weights. Without
    ``activation_stats [K]`` the statistic is inferred from the mask; without ``gram [K, K]``, the mean of x x^T,
    channels are taken to be uncorrelated.
    """
    return _core.compute_salient_scaling(
        weights, salient_mask, scales, integer("group_size", group_size), activation_stats, gram
    )


def pack_awq_weights(weights: Any, scales: Any, zeros: Any, group_size: int = 128) -> tuple[Any, dict[str, Any]]:
    """Packs signed codes int8 ``[K, N]`` in -8..7 into ``(uint32 [padded K / 8, N], meta)``, without loss."""
    return _core.pack_awq_weights(weights, scales, zeros, integer("group_size", group_size))


def unpack_awq_weights(packed: Any, meta: dict[str, Any]) -> Any:
    """The codes again, int8 ``[K, N]``."""
    return _core.unpack_awq_weights(packed, _meta(meta))


def awq_quantize(
    weights: Any,
    activations: Any,
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: str = "rms",
    output_backend: str = "numpy",
    *,
    scheme: str = "sym",
) -> AWQResult:
    """Quantizes weights ``[K, N]`` to 4 bits for the inputs ``activations`` (``[B, T, K]`` or ``[tokens, K]``).

    ``scheme`` is "sym" (codes -8..7) or "asym" (a zero point per group). Of the largest weights by activation times
    magnitude (a share of ``salient_ratio``) the channels that hold many are scaled up before rounding; the exponent of
    the scale and the range of each group are those of least output error.
    """
    module = backend(output_backend)
    parts = _core.awq_quantize(
        weights,
        activations,
        integer("group_size", group_size),
        number("salient_ratio", salient_ratio),
        choice("activation_method", activation_method, _METHODS),
        choice("scheme", scheme, ("sym", "asym")),
    )
    return _result(parts, output_backend, module)


def awq_dequantize(
    packed: Any,
    scales: Any,
    zeros: Any,
    q_scale: Any,
    meta: dict[str, Any],
    weights_dtype: Any = None,
    output_backend: str = "numpy",
) -> Any:
    """The weights ``[K, N]`` that the arrays stand for, in ``weights_dtype`` (float16 by default).

    ``q_scale`` may be None (all 1). ``meta["code_offset"] = 7`` reads arrays of the earlier numpy implementation, whose
    ``q_scale`` is per output channel; :func:`awq_load` sets it.
    """
    module = backend(output_backend)
    out = _core.awq_dequantize(
        packed, scales, zeros, q_scale, _meta(meta), dtype_name("weights_dtype", weights_dtype, output_backend)
    )
    return to_backend(out, output_backend, module)


def awq_load(file: Any, output_backend: str = "numpy") -> dict[str, AWQResult]:
    """The 4-bit tensors of a ``*.awq.safetensors`` by name, of this package or of the earlier numpy implementation."""
    module = backend(output_backend)
    return {name: _result(parts, output_backend, module) for name, parts in _core.awq_load(existing_path("file", file))}


def awq_quantize_model(
    model_path: Any,
    output_path: Any,
    activations_path: Any,
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: str = "rms",
    verbose: bool = True,
    *,
    scheme: str = "sym",
) -> dict[str, Any]:
    """Quantizes a model with the activations (or statistics) of an npz and writes a folder in the native format.

    Returns ``quantized_count``, ``skipped_count``, ``original_bytes``, ``quantized_bytes``, ``quant_type``,
    ``group_size``, ``salient_ratio``, ``compression_ratio``, and also ``bits_per_weight`` of the whole model and
    ``skipped`` (name: reason).
    """
    if not isinstance(verbose, bool):
        raise TypeError(f"verbose: expected a bool, found {type(verbose).__name__}")

    def note(line: str) -> None:
        print(f"  {line}", flush=True)

    stats = _core.awq_quantize_model(
        existing_path("model_path", model_path),
        path("output_path", output_path),
        existing_path("activations_path", activations_path),
        integer("group_size", group_size),
        number("salient_ratio", salient_ratio),
        choice("activation_method", activation_method, _METHODS),
        choice("scheme", scheme, ("sym", "asym")),
        None,
        note if verbose else None,
        (lambda line: note(f"Warning: {line}")) if verbose else None,
    )
    if verbose:
        note(f"Quantized: {stats['quantized_count']} tensors")
        note(f"Skipped: {stats['skipped_count']} tensors")
        note(f"Compression: {stats['compression_ratio']:.2f}x")
    return stats


def _meta(meta: Any) -> dict[str, Any]:
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    return meta
