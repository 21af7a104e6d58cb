"""GPTQ of one matrix at a time.

:func:`gptq_quantize` and :func:`gptq_dequantize` have the signature and the layout of :mod:`metal_marlin.awq`. The others
work by a Hessian, with weights ``W [N, K]`` = ``[out_features, in_features]`` as a checkpoint stores them, and return values
instead of packed codes, under the names of an earlier implementation in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import _core
from ._arguments import backend, boolean, choice, dtype_name, integer, number, permutation, to_backend

__all__ = [
    "GPTQPacked", "gptq_quantize", "gptq_dequantize", "GPTQQuantizer", "GPTQResult", "compute_hessian",
    "compute_hessian_streaming", "quantize_layer_gptq", "quantize_rtn", "pack_gptq_int4", "compare_gptq_vs_rtn",
]  # fmt: skip


@dataclass
class GPTQPacked:
    """What :func:`gptq_quantize` returns: the arrays of an AWQResult without ``q_scale``."""

    Q: Any  #: uint32 [padded K / 8, N]
    scales: Any  #: float16 [G, N]
    zeros: Any  #: float16 [G, N], integers -8..7
    quantization_error: float  #: sum of the squared errors of the weights (GPTQ minimises the output error instead)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def output_error(self) -> float:
        """|X(W'-W)| / |XW| on the activations that were given."""
        return self.meta["output_error"]

    @property
    def weight_error(self) -> float:
        """|W'-W| / |W|."""
        return self.meta["weight_error"]


def gptq_quantize(
    weights: Any,
    activations: Any,
    group_size: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    output_backend: str = "numpy",
    *,
    scheme: str = "sym",
) -> GPTQPacked:
    """Quantizes weights ``[K, N]`` to 4 bits for the inputs ``activations`` (``[B, T, K]`` or ``[tokens, K]``).

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
    return GPTQPacked(*(to_backend(a, output_backend, module) for a in parts[:3]), *parts[3:])


def gptq_dequantize(
    packed: Any, scales: Any, zeros: Any, meta: dict[str, Any], weights_dtype: Any = None, output_backend: str = "numpy"
) -> Any:
    """The weights ``[K, N]`` that the arrays stand for, in ``weights_dtype`` (float16 by default)."""
    module = backend(output_backend)
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    out = _core.gptq_dequantize(packed, scales, zeros, meta, dtype_name("weights_dtype", weights_dtype, output_backend))
    return to_backend(out, output_backend, module)


@dataclass
class GPTQResult:
    """What :class:`GPTQQuantizer`, :func:`quantize_layer_gptq` and :func:`quantize_rtn` return."""

    Q: Any  #: float32 [N, K], the values (code - zero) * scale; columns in their own order
    scales: Any  #: float32 [G, N], values that float16 holds
    zeros: Any  #: float32 [G, N], the codes of weight 0; None for a symmetric grid, where that is 2 ** (bits - 1)
    perm: (
        Any  #: int64 [K]: column perm[j] was rounded j-th and belongs to group j // group_size; None without act order
    )
    quantization_error: float  #: sum of the squared errors of the weights
    total_error: float | None = None  #: tr((Q - W) H (Q - W)^T), what GPTQ minimises; None from quantize_rtn


def _layer_result(parts: tuple[Any, ...]) -> GPTQResult:
    import numpy

    perm = None if parts[3] is None else numpy.array(parts[3], numpy.int64)
    return GPTQResult(*parts[:3], perm, *parts[4:])


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

    def quantize_weight(self, W: Any, H: Any) -> GPTQResult:
        """``W [N, K]`` by the Hessian ``H [K, K]`` of :func:`compute_hessian`."""
        return _layer_result(
            _core.quantize_layer_gptq(W, H, self.bits, self.group_size, self.sym, self.actorder, self.damp)
        )


def compute_hessian(activations: Any, normalize: bool = True) -> Any:
    """float64 ``[K, K]``: 2 X^T X, divided by the number of tokens when ``normalize``, of ``[tokens, K]`` or ``[B, T, K]``."""
    return _core.compute_hessian(activations, boolean("normalize", normalize))


def compute_hessian_streaming(
    in_features: int, normalize_count: int | None = None
) -> tuple[Any, Callable[[Any], None]]:
    """``(H, add_batch)``: ``add_batch(activations)`` adds 2 X^T X, divided by ``normalize_count`` if given, to ``H`` in place."""
    import numpy

    size = integer("in_features", in_features)
    if size < 1:
        raise ValueError(f"in_features: expected at least 1, found {size}")
    divisor = 1 if normalize_count is None else integer("normalize_count", normalize_count)
    if divisor < 1:
        raise ValueError(f"normalize_count: expected at least 1, found {divisor}")
    hessian = numpy.zeros((size, size))

    def add_batch(activations: Any) -> None:
        batch = _core.compute_hessian(activations, False)
        if batch.shape != hessian.shape:
            raise ValueError(f"activations: expected in_features {size}, found {batch.shape[0]}")
        numpy.add(hessian, batch / divisor, out=hessian)

    return hessian, add_batch


def quantize_layer_gptq(
    W: Any,
    activations: Any,
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
    H = activations
    if not boolean("hessian", hessian):
        H = compute_hessian(activations)
        shape = getattr(W, "shape", ())
        if len(shape) == 2 and shape[1] != H.shape[0]:
            raise ValueError(f"activations: expected in_features {shape[1]} as in W [N, K], found {H.shape[0]}")
    return GPTQQuantizer(bits, group_size, sym, actorder, damp).quantize_weight(W, H)


def quantize_rtn(W: Any, bits: int = 4, group_size: int = 128, sym: bool = True) -> GPTQResult:
    """Plain rounding of ``W [N, K]`` on the same grid, for comparison."""
    return _layer_result(
        _core.quantize_rtn(W, integer("bits", bits), integer("group_size", group_size), boolean("sym", sym))
    )


def pack_gptq_int4(Q: Any, scales: Any, zeros: Any, group_size: int, perm: Any = None) -> tuple[Any, Any, Any]:
    """``(packed, scales, zeros)`` of the arrays of a 4-bit :class:`GPTQResult`.

    ``packed`` is uint32 ``[N, ceil(K / 8)]``, bits 4i..4i+3 of word r for column 8r + i; scales and zeros are float16
    ``[G, N]``: W = (code - 8 - zeros) * scales. ``perm`` must be the result's, else Q is not on the grid: ValueError.
    """
    order = [] if perm is None else permutation("perm", perm)
    return _core.pack_gptq_int4(Q, scales, zeros, integer("group_size", group_size), order)


def compare_gptq_vs_rtn(W: Any, H: Any, bits: int = 4, group_size: int = 128) -> dict[str, float]:
    """GPTQ beside plain rounding, both symmetric.

    ``rtn_mse`` and ``gptq_mse`` are mean squared errors of the weights, ``rtn_total_error`` and ``gptq_total_error``
    tr(E H E^T), of the outputs; ``improvement_ratio`` is the ratio of the latter, since GPTQ does not minimise the former.
    """
    return _core.compare_gptq_vs_rtn(W, H, integer("bits", bits), integer("group_size", group_size))
