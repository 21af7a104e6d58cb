"""AWQ of one matrix at a time, and of a model by stored activations, as the origin of these names has it.

This is the method ``awq-salient``; :func:`metal_marlin.quantize_matrix` has the others, ``awq`` among them.

Shapes: K = in_features, N = out_features, G = groups of ``group_size`` input channels. Weights are ``[K, N]``; a
checkpoint's ``[out, in]`` must be transposed. What is stored stands for ::

    W'[k, n] = (code - 8 - zeros[g, n]) * scales[g, n] / q_scale[k]        g = k // group_size

Arrays may be of numpy (also bfloat16 of ml_dtypes), torch or mlx, of any strides, in float16, bfloat16, float32 or
float64. ``docs/awq.md`` describes everything with examples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, overload

from . import _core
from ._arguments import backend, choice, dtype_name, existing_path, integer, number, path, to_backend
from ._results import described, shape_of
from ._types import (
    ActivationMethod,
    AWQMeta,
    AWQModelStats,
    Backend,
    BoolArray,
    CodeArray,
    Float16Array,
    Float32Array,
    FloatArray,
    FloatDtype,
    FloatingArray,
    ForeignBackend,
    Int8Array,
    MaskArray,
    Scheme,
    UInt32Array,
    WordArray,
)

AWQ_SALIENT_RATIO: float = _core.AWQ_SALIENT_RATIO
AWQ_DEFAULT_GROUP_SIZE: int = _core.AWQ_DEFAULT_GROUP_SIZE
FP4_PER_U32: int = _core.FP4_PER_U32
AWQ_QUANT_BITS: int = _core.AWQ_QUANT_BITS
AWQ_MAX_INT4: int = _core.AWQ_MAX_INT4

__all__ = [
    "AWQResult", "awq_quantize", "awq_dequantize", "awq_quantize_model", "awq_load", "compute_activation_stats",
    "compute_salient_scaling", "find_salient_weights", "pack_awq_weights", "unpack_awq_weights",
    "SalientWeights", "PackedAWQ", "AWQMeta", "AWQModelStats",
    "AWQ_SALIENT_RATIO", "AWQ_DEFAULT_GROUP_SIZE", "FP4_PER_U32", "AWQ_QUANT_BITS", "AWQ_MAX_INT4",
]  # fmt: skip

_METHODS = ("mean", "max", "rms")


def _unknown() -> AWQMeta:
    return cast(AWQMeta, {})


@dataclass(eq=False, repr=False)
class AWQResult:
    """What :func:`awq_quantize` returns.

    ``meta`` holds what :func:`awq_dequantize` needs (``in_features``, ``out_features``, ``group_size``, ``quant_type``,
    ``padded_in_features``, ``code_offset``) and figures: ``output_error`` |X(W'-W)| / |XW|, ``weight_error``,
    ``exponent``, ``salient_weights``, ``salient_channels``, ``raised_scales``.
    """

    Q: UInt32Array  #: [padded K / 8, N]; bits 4i..4i+3 of Q[r, n] hold the code of row 8r + i
    scales: Float16Array  #: [G, N]
    zeros: Float16Array  #: [G, N], integers -8..7, all 0 with scheme "sym"
    q_scale: Float16Array  #: [K], per input channel
    quantization_error: float  #: sum of the squared errors of the weights
    salient_ratio: float  #: as given
    meta: AWQMeta = field(default_factory=_unknown)

    @property
    def output_error(self) -> float:
        """|X(W'-W)| / |XW| on the activations that were given."""
        return self.meta["output_error"]

    @property
    def weight_error(self) -> float:
        """|W'-W| / |W|."""
        return self.meta["weight_error"]

    @overload
    def dequantize(self, weights_dtype: None = None, output_backend: Literal["numpy"] = "numpy") -> Float16Array: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype, output_backend: Literal["numpy"] = "numpy") -> FloatingArray: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype | None = None, *, output_backend: ForeignBackend) -> Any: ...
    def dequantize(self, weights_dtype: FloatDtype | None = None, output_backend: Backend = "numpy") -> Any:
        """:func:`awq_dequantize`: the weights ``[K, N]`` that this stands for, float16 by default."""
        return _dequantize(self.Q, self.scales, self.zeros, self.q_scale, self.meta, weights_dtype, output_backend)

    def __repr__(self) -> str:
        return described(self, **_facts(self.meta))


def _facts(meta: AWQMeta) -> dict[str, Any]:
    names = ("in_features", "out_features", "group_size", "scheme", "output_error")
    known = {name: meta.get(name) for name in names}
    return {**{n: known[n] for n in names[:2]}, "bits": AWQ_QUANT_BITS, **{n: known[n] for n in names[2:]}}


class SalientWeights(NamedTuple):
    """What :func:`find_salient_weights` returns."""

    salient_mask: BoolArray  #: [K, N]
    per_channel_importance: Float32Array  #: [K]: statistic / largest statistic

    def __repr__(self) -> str:
        shape = shape_of(self.salient_mask)
        return described(self, shape=shape, salient=int(self.salient_mask.sum()))

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


class PackedAWQ(NamedTuple):
    """What :func:`pack_awq_weights` returns."""

    packed: UInt32Array  #: [padded K / 8, N]
    meta: AWQMeta

    def __repr__(self) -> str:
        return described(self, **_facts(self.meta))

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


def _result(parts: tuple[Any, ...], output_backend: str, module: Any) -> AWQResult:
    arrays = [to_backend(a, output_backend, module) for a in parts[:4]]
    return AWQResult(*arrays, *parts[4:])


def compute_activation_stats(activations: FloatArray, method: ActivationMethod = "rms") -> Float32Array:
    """Statistic of each input channel, float32 ``[K]``, of activations ``[B, T, K]`` or ``[tokens, K]``.

    ``method`` is "mean" or "max" of the absolute values, or "rms".
    """
    return _core.compute_activation_stats(activations, choice("method", method, _METHODS))


def find_salient_weights(
    weights: FloatArray, activation_stats: FloatArray, salient_ratio: float = 0.01
) -> SalientWeights:
    """``(salient_mask, per_channel_importance)``: bool ``[K, N]`` and float32 ``[K]``.

    Exactly ``round(salient_ratio * K * N)`` weights are salient: those with the largest
    ``stat_k / max(stat) * |w_kn| / max|w|``, ties by index. The importance is ``stat / max(stat)``.
    """
    return SalientWeights(
        *_core.find_salient_weights(weights, activation_stats, number("salient_ratio", salient_ratio))
    )


def compute_salient_scaling(
    weights: FloatArray,
    salient_mask: MaskArray,
    scales: FloatArray,
    group_size: int,
    activation_stats: FloatArray | None = None,
    gram: FloatArray | None = None,
) -> Float32Array:
    """Factor of each input channel, float32 ``[K]``, at least 1.

    Channels of which at least a tenth of the weights is salient get ``max(stat / median(stat), 1) ** r`` with the ``r``
    whose output error is least; the others get 1. ``scales [G, N]`` are those of the unscaled weights. Without
    ``activation_stats [K]`` the statistic is inferred from the mask; without ``gram [K, K]``, the mean of x x^T,
    channels are taken to be uncorrelated.
    """
    return _core.compute_salient_scaling(
        weights, salient_mask, scales, integer("group_size", group_size), activation_stats, gram
    )


def pack_awq_weights(weights: CodeArray, scales: FloatArray, zeros: FloatArray, group_size: int = 128) -> PackedAWQ:
    """Packs signed codes int8 ``[K, N]`` in -8..7 into ``(uint32 [padded K / 8, N], meta)``, without loss."""
    return PackedAWQ(*_core.pack_awq_weights(weights, scales, zeros, integer("group_size", group_size)))


def unpack_awq_weights(packed: WordArray, meta: AWQMeta | dict[str, Any]) -> Int8Array:
    """The codes again, int8 ``[K, N]``."""
    return _core.unpack_awq_weights(packed, _meta(meta))


@overload
def awq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: ActivationMethod = "rms",
    output_backend: Literal["numpy"] = "numpy",
    *,
    scheme: Scheme = "sym",
) -> AWQResult: ...
@overload
def awq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: ActivationMethod = "rms",
    *,
    output_backend: ForeignBackend,
    scheme: Scheme = "sym",
) -> Any: ...
def awq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: ActivationMethod = "rms",
    output_backend: Backend = "numpy",
    *,
    scheme: Scheme = "sym",
) -> Any:
    """Quantizes weights ``[K, N]`` to 4 bits for the inputs ``activations`` (``[B, T, K]`` or ``[tokens, K]``).

    This is ``--method awq-salient`` of ``metal-marlin quantize`` with ``--range gram``, not its default ``awq``,
    whose output error is smaller: :func:`~metal_marlin.quantize_matrix` has that.

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


@overload
def awq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    q_scale: FloatArray | None,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: None = None,
    output_backend: Literal["numpy"] = "numpy",
) -> Float16Array: ...
@overload
def awq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    q_scale: FloatArray | None,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype,
    output_backend: Literal["numpy"] = "numpy",
) -> FloatingArray: ...
@overload
def awq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    q_scale: FloatArray | None,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    *,
    output_backend: ForeignBackend,
) -> Any: ...
def awq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    q_scale: FloatArray | None,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    output_backend: Backend = "numpy",
) -> Any:
    """The weights ``[K, N]`` that the arrays stand for, in ``weights_dtype`` (float16 by default).

    ``q_scale`` may be None (all 1). ``meta["code_offset"] = 7`` reads arrays of the earlier numpy implementation, whose
    ``q_scale`` is per output channel; :func:`awq_load` sets it.
    """
    return _dequantize(packed, scales, zeros, q_scale, meta, weights_dtype, output_backend)


def _dequantize(
    packed: object, scales: object, zeros: object, q_scale: object, meta: object, weights_dtype: object, name: Backend
) -> Any:
    module = backend(name)
    out = _core.awq_dequantize(
        packed, scales, zeros, q_scale, _meta(meta), dtype_name("weights_dtype", weights_dtype, name)
    )
    return to_backend(out, name, module)


@overload
def awq_load(file: str | os.PathLike[str], output_backend: Literal["numpy"] = "numpy") -> dict[str, AWQResult]: ...
@overload
def awq_load(file: str | os.PathLike[str], output_backend: ForeignBackend) -> dict[str, Any]: ...
def awq_load(file: str | os.PathLike[str], output_backend: Backend = "numpy") -> dict[str, Any]:
    """The 4-bit tensors of a ``*.awq.safetensors`` by name, of this package or of the earlier numpy implementation."""
    module = backend(output_backend)
    return {name: _result(parts, output_backend, module) for name, parts in _core.awq_load(existing_path("file", file))}


def awq_quantize_model(
    model_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    activations_path: str | os.PathLike[str],
    group_size: int = 128,
    salient_ratio: float = 0.01,
    activation_method: ActivationMethod = "rms",
    verbose: bool = True,
    *,
    scheme: Scheme = "sym",
) -> AWQModelStats:
    """Quantizes a model with the activations (or statistics) of an npz and writes a folder in the native format.

    The method is ``awq-salient`` with ``--range gram``; :func:`~metal_marlin.quantize_model` has the others.

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


def _meta(meta: object) -> dict[str, Any]:
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    return meta
