"""GPTQ of one matrix at a time.

:func:`gptq_quantize` and :func:`gptq_dequantize` have the signature and the layout of :mod:`metal_marlin.awq`. The others
work by a Hessian, with weights ``W [N, K]`` = ``[out_features, in_features]`` as a checkpoint stores them, and return values
instead of packed codes, under the names of an earlier implementation in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt

from . import _core
from ._arguments import backend, boolean, choice, dtype_name, integer, number, permutation, to_backend
from ._results import described, shape_of
from ._types import (
    AWQMeta,
    Backend,
    Float16Array,
    Float32Array,
    Float64Array,
    FloatArray,
    FloatDtype,
    FloatingArray,
    ForeignBackend,
    GPTQComparison,
    Int64Array,
    Scheme,
    UInt32Array,
    WordArray,
)

__all__ = [
    "GPTQPacked", "gptq_quantize", "gptq_dequantize", "GPTQQuantizer", "GPTQResult", "compute_hessian",
    "compute_hessian_streaming", "quantize_layer_gptq", "quantize_rtn", "pack_gptq_int4", "compare_gptq_vs_rtn",
    "PackedGPTQ", "GPTQComparison",
]  # fmt: skip


def _unknown() -> AWQMeta:
    return cast(AWQMeta, {})


@dataclass(eq=False, repr=False)
class GPTQPacked:
    """What :func:`gptq_quantize` returns: the arrays of an AWQResult without ``q_scale``."""

    Q: UInt32Array  #: [padded K / 8, N]
    scales: Float16Array  #: [G, N]
    zeros: Float16Array  #: [G, N], integers -8..7
    quantization_error: float  #: sum of the squared errors of the weights (GPTQ minimises the output error instead)
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
        """:func:`gptq_dequantize`: the weights ``[K, N]`` that this stands for, float16 by default."""
        return _dequantize(self.Q, self.scales, self.zeros, self.meta, weights_dtype, output_backend)

    def __repr__(self) -> str:
        known = self.meta.get
        return described(
            self, in_features=known("in_features"), out_features=known("out_features"), bits=4,
            group_size=known("group_size"), scheme=known("scheme"), output_error=known("output_error"),
        )  # fmt: skip


@overload
def gptq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    output_backend: Literal["numpy"] = "numpy",
    *,
    scheme: Scheme = "sym",
) -> GPTQPacked: ...
@overload
def gptq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    *,
    output_backend: ForeignBackend,
    scheme: Scheme = "sym",
) -> Any: ...
def gptq_quantize(
    weights: FloatArray,
    activations: FloatArray,
    group_size: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    output_backend: Backend = "numpy",
    *,
    scheme: Scheme = "sym",
) -> Any:
    """Quantizes weights ``[K, N]`` to 4 bits for the inputs ``activations`` (``[B, T, K]`` or ``[tokens, K]``).

    This is ``--method gptq`` of ``metal-marlin quantize``. :func:`~metal_marlin.quantize_matrix` has its default ``awq``,
    and this method for weights ``[out_features, in_features]``.

    Input channels are rounded one by one, with ``act_order`` those of the largest activations first, and each one's
    error is made good by the rest. ``damping`` is the share of each diagonal entry of X^T X that is added to it.
    """
    module = backend(output_backend)
    parts = _core.gptq_quantize(
        weights,
        activations,
        integer("group_size", group_size),
        number("damping", damping),
        boolean("act_order", act_order),
        choice("scheme", scheme, ("sym", "asym")),
    )
    arrays = [to_backend(a, output_backend, module) for a in parts[:3]]
    return GPTQPacked(arrays[0], arrays[1], arrays[2], parts[3], parts[4])


@overload
def gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: None = None,
    output_backend: Literal["numpy"] = "numpy",
) -> Float16Array: ...
@overload
def gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype,
    output_backend: Literal["numpy"] = "numpy",
) -> FloatingArray: ...
@overload
def gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    *,
    output_backend: ForeignBackend,
) -> Any: ...
def gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    zeros: FloatArray,
    meta: AWQMeta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    output_backend: Backend = "numpy",
) -> Any:
    """The weights ``[K, N]`` that the arrays stand for, in ``weights_dtype`` (float16 by default)."""
    return _dequantize(packed, scales, zeros, meta, weights_dtype, output_backend)


def _dequantize(
    packed: object, scales: object, zeros: object, meta: object, weights_dtype: object, name: Backend
) -> Any:
    module = backend(name)
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    out = _core.gptq_dequantize(packed, scales, zeros, meta, dtype_name("weights_dtype", weights_dtype, name))
    return to_backend(out, name, module)


@dataclass(eq=False, repr=False)
class GPTQResult:
    """What :class:`GPTQQuantizer`, :func:`quantize_layer_gptq` and :func:`quantize_rtn` return."""

    Q: Float32Array  #: [N, K], the values (code - zero) * scale; columns in their own order
    scales: Float32Array  #: [G, N], values that float16 holds
    zeros: (
        Float32Array | None
    )  #: [G, N], the codes of weight 0; None for a symmetric grid, where that is 2 ** (bits - 1)
    #: [K]: column perm[j] was rounded j-th and belongs to group j // group_size; None without act order
    perm: Int64Array | None
    quantization_error: float  #: sum of the squared errors of the weights
    total_error: float | None = None  #: tr((Q - W) H (Q - W)^T), what GPTQ minimises; None from quantize_rtn
    bits: int | None = None  #: as given; None: not known
    group_size: int | None = None  #: as given
    scheme: Scheme | None = None

    def dequantize(self) -> Float32Array:
        """The weights ``[N, K]`` that this stands for: ``Q``."""
        return self.Q

    def __repr__(self) -> str:
        shape = (*shape_of(self.Q), None, None)
        return described(
            self, out_features=shape[0], in_features=shape[1], bits=self.bits, group_size=self.group_size,
            scheme=self.scheme, total_error=self.total_error,
        )  # fmt: skip


class PackedGPTQ(NamedTuple):
    """What :func:`pack_gptq_int4` returns."""

    packed: UInt32Array  #: [N, ceil(K / 8)]
    scales: Float16Array  #: [G, N]
    zeros: Float16Array  #: [G, N]

    def __repr__(self) -> str:
        return described(self, packed=shape_of(self.packed), scales=shape_of(self.scales))

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


def _layer_result(
    parts: tuple[Float32Array, Float32Array, Float32Array | None, list[int] | None, float, float | None],
    bits: int,
    group_size: int,
    sym: bool,
) -> GPTQResult:
    perm = None if parts[3] is None else np.array(parts[3], np.int64)
    return GPTQResult(
        parts[0], parts[1], parts[2], perm, parts[4], parts[5], bits, group_size, "sym" if sym else "asym"
    )


class GPTQQuantizer:
    """GPTQ of a layer's weights by its Hessian.

    ``bits`` is 2, 3, 4 or 8; ``group_size`` -1 stands for one group per row; ``damp`` is the share of the mean of the
    Hessian's diagonal that is added to it. With ``actorder`` columns are rounded, and form groups, in the order of their
    activations. ``block_size`` can only be 128: the result does not depend on it, and the library chooses its own blocks.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 128,
        sym: bool = True,
        actorder: bool = True,
        damp: float = 0.01,
        block_size: int = 128,
    ) -> None:
        self.bits = integer("bits", bits)
        self.group_size = integer("group_size", group_size)
        self.sym = boolean("sym", sym)
        self.actorder = boolean("actorder", actorder)
        self.damp = number("damp", damp)
        self.block_size = integer("block_size", block_size)
        if self.block_size != 128:
            raise ValueError(f"block_size: expected 128 (the result does not depend on it), found {self.block_size}")
        _core.check_gptq_options(self.bits, self.group_size, self.sym, self.actorder, self.damp)

    def __repr__(self) -> str:
        return described(
            self, bits=self.bits, group_size=self.group_size, sym=self.sym, actorder=self.actorder, damp=self.damp,
        )  # fmt: skip

    def quantize_weight(self, W: FloatArray, H: FloatArray) -> GPTQResult:
        """``W [N, K]`` by the Hessian ``H [K, K]`` of :func:`compute_hessian`."""
        parts = _core.quantize_layer_gptq(W, H, self.bits, self.group_size, self.sym, self.actorder, self.damp)
        return _layer_result(parts, self.bits, self.group_size, self.sym)


def compute_hessian(activations: FloatArray, normalize: bool = True) -> Float64Array:
    """float64 ``[K, K]``: 2 X^T X, divided by the number of tokens when ``normalize``, of ``[tokens, K]`` or ``[B, T, K]``."""
    return _core.compute_hessian(activations, boolean("normalize", normalize))


def compute_hessian_streaming(
    in_features: int, normalize_count: int | None = None
) -> tuple[Float64Array, Callable[[FloatArray], None]]:
    """``(H, add_batch)``: ``add_batch(activations)`` adds 2 X^T X, divided by ``normalize_count`` if given, to ``H`` in place."""
    size = integer("in_features", in_features)
    if size < 1:
        raise ValueError(f"in_features: expected at least 1, found {size}")
    divisor = 1 if normalize_count is None else integer("normalize_count", normalize_count)
    if divisor < 1:
        raise ValueError(f"normalize_count: expected at least 1, found {divisor}")
    hessian = np.zeros((size, size), np.float64)

    def add_batch(activations: FloatArray) -> None:
        batch = _core.compute_hessian(activations, False)
        if batch.shape != hessian.shape:
            raise ValueError(f"activations: expected in_features {size}, found {batch.shape[0]}")
        np.add(hessian, batch / divisor, out=hessian)

    return hessian, add_batch


def quantize_layer_gptq(
    W: FloatArray,
    activations: FloatArray,
    bits: int = 4,
    group_size: int = 128,
    sym: bool = True,
    actorder: bool = True,
    damp: float = 0.01,
    *,
    hessian: bool = False,
) -> GPTQResult:
    """GPTQ of ``W [N, K]`` for ``activations`` (``[tokens, K]`` or ``[B, T, K]``).

    With ``hessian=True`` the second argument is a Hessian ``[K, K]`` instead. It is never guessed from the shape: a batch
    of K tokens has the same.
    """
    H: FloatArray = activations
    if not boolean("hessian", hessian):
        computed = compute_hessian(activations)
        shape = shape_of(W)
        if len(shape) == 2 and shape[1] != computed.shape[0]:
            raise ValueError(f"activations: expected in_features {shape[1]} as in W [N, K], found {computed.shape[0]}")
        H = computed
    return GPTQQuantizer(bits, group_size, sym, actorder, damp).quantize_weight(W, H)


def quantize_rtn(W: FloatArray, bits: int = 4, group_size: int = 128, sym: bool = True) -> GPTQResult:
    """Plain rounding of ``W [N, K]`` on the same grid, for comparison."""
    bits, group_size, sym = integer("bits", bits), integer("group_size", group_size), boolean("sym", sym)
    return _layer_result(_core.quantize_rtn(W, bits, group_size, sym), bits, group_size, sym)


def pack_gptq_int4(
    Q: FloatArray,
    scales: FloatArray,
    zeros: FloatArray | None,
    group_size: int,
    perm: npt.NDArray[np.integer[Any]] | Sequence[int] | None = None,
) -> PackedGPTQ:
    """``(packed, scales, zeros)`` of the arrays of a 4-bit :class:`GPTQResult`.

    ``packed`` is uint32 ``[N, ceil(K / 8)]``, bits 4i..4i+3 of word r for column 8r + i; scales and zeros are float16
    ``[G, N]``: W = (code - 8 - zeros) * scales. ``perm`` must be the result's, else Q is not on the grid: ValueError.
    """
    order = [] if perm is None else permutation("perm", perm)
    return PackedGPTQ(*_core.pack_gptq_int4(Q, scales, zeros, integer("group_size", group_size), order))


def compare_gptq_vs_rtn(W: FloatArray, H: FloatArray, bits: int = 4, group_size: int = 128) -> GPTQComparison:
    """GPTQ beside plain rounding, both symmetric.

    ``rtn_mse`` and ``gptq_mse`` are mean squared errors of the weights, ``rtn_total_error`` and ``gptq_total_error``
    tr(E H E^T), of the outputs; ``improvement_ratio`` is the ratio of the latter, since GPTQ does not minimise the former.
    """
    return _core.compare_gptq_vs_rtn(W, H, integer("bits", bits), integer("group_size", group_size))
