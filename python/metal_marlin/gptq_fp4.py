"""GPTQ onto FP4 (E2M1): +-{0, 0.5, 1, 1.5, 2, 3, 4, 6} times a float16 scale for each group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, overload

from . import _core
from ._arguments import backend, boolean, choice, dtype_name, integer, number, to_backend
from ._results import described
from ._types import (
    Backend,
    Float16Array,
    FloatArray,
    FloatDtype,
    FloatingArray,
    ForeignBackend,
    FP4Meta,
    ScaleMethod,
    UInt8Array,
    UInt32Array,
    WordArray,
)

__all__ = [
    "FP4GPTQQuantizer",
    "FP4GPTQResult",
    "FP4Meta",
    "FP4Packed",
    "FP4_GRID",
    "FP4_MAX",
    "dequantize_fp4_gptq",
    "fp4_gptq_quantize_weight",
]

#: The value of each code; code 8 is -0 and never written.
FP4_GRID: tuple[float, ...] = tuple(_core.quantization_levels("fp4"))
FP4_MAX: float = 6.0

_SCALE_METHODS = ("maxabs", "mse_grid", "mse_newton", "hessian")


def _unknown() -> FP4Meta:
    return cast(FP4Meta, {})


@dataclass(eq=False, repr=False)
class FP4GPTQResult:
    """What :class:`FP4GPTQQuantizer` returns. Group of column k: ``k // group_size``, whatever the order of rounding."""

    packed: UInt32Array  #: [K, ceil(N / 8)]: bits 4i..4i+3 of packed[k, r] hold the code of output 8r + i
    scales: Float16Array  #: [G, N]
    quant_indices: UInt8Array  #: [K, N]: the codes, unpacked
    mse: float  #: mean squared error of the weights, of what is stored
    #: orig_K, orig_N, padded_K (= orig_K), padded_N, group_size, actorder, scale_method, output_error
    meta: FP4Meta = field(default_factory=_unknown)

    @overload
    def dequantize(self, weights_dtype: None = None, output_backend: Literal["numpy"] = "numpy") -> Float16Array: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype, output_backend: Literal["numpy"] = "numpy") -> FloatingArray: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype | None = None, *, output_backend: ForeignBackend) -> Any: ...
    def dequantize(self, weights_dtype: FloatDtype | None = None, output_backend: Backend = "numpy") -> Any:
        """:func:`dequantize_fp4_gptq`: the weights ``[N, K]`` that this stands for, float16 by default."""
        return _dequantize(self.packed, self.scales, self.meta, weights_dtype, output_backend)

    def __repr__(self) -> str:
        known = self.meta.get
        return described(
            self, out_features=known("orig_N"), in_features=known("orig_K"), bits=4, group_size=known("group_size"),
            scheme="fp4", output_error=known("output_error"),
        )  # fmt: skip


class FP4Packed(NamedTuple):
    """What :func:`fp4_gptq_quantize_weight` returns."""

    packed: UInt32Array
    scales: Float16Array
    meta: FP4Meta

    def __repr__(self) -> str:
        known = self.meta.get
        return described(
            self, out_features=known("orig_N"), in_features=known("orig_K"), bits=4, group_size=known("group_size"),
            scheme="fp4", output_error=known("output_error"),
        )  # fmt: skip

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


class FP4GPTQQuantizer:
    """GPTQ of weights ``W [N, K]`` = ``[out_features, in_features]`` onto FP4.

    ``group_size`` -1 stands for one group per row; the last group may be short. ``damp_factor`` is the share of the mean of
    the Hessian's diagonal that is added to it, 0 to 1. ``scale_method``: ``maxabs`` gives the largest weight of a group
    the level 6; ``mse_grid`` takes, of 41 multiples of that scale, the one of least squared error; ``mse_newton`` then
    fits the scale to the levels and the levels to the scale as long as the error falls; ``hessian`` takes of the 41 the
    one of least e H_gg e^T. ``block_size`` can only be 128: the result does not depend on it.
    """

    def __init__(
        self,
        group_size: int = 128,
        actorder: bool = True,
        damp_factor: float = 0.01,
        scale_method: ScaleMethod = "mse_grid",
        block_size: int = 128,
    ) -> None:
        self.group_size = integer("group_size", group_size)
        self.actorder = boolean("actorder", actorder)
        self.damp_factor = number("damp_factor", damp_factor)
        self.scale_method = cast(ScaleMethod, choice("scale_method", scale_method, _SCALE_METHODS))
        self.block_size = integer("block_size", block_size)
        if self.block_size != 128:
            raise ValueError(f"block_size: expected 128 (the result does not depend on it), found {self.block_size}")
        _core.check_fp4_gptq(self.group_size, self.actorder, self.damp_factor, self.scale_method)

    def __repr__(self) -> str:
        return described(
            self, group_size=self.group_size, actorder=self.actorder, damp_factor=self.damp_factor,
            scale_method=self.scale_method,
        )  # fmt: skip

    def quantize_weight(self, W: FloatArray, H: FloatArray | None = None) -> FP4GPTQResult:
        """``W [N, K]`` by the Hessian ``H [K, K]`` (:func:`~metal_marlin.compute_hessian`); without one by plain rounding."""
        packed, scales, codes, mse, output_error, k, n, group = _core.fp4_gptq(
            W, H, self.group_size, self.actorder, self.damp_factor, self.scale_method
        )
        meta: FP4Meta = {
            "orig_K": k, "orig_N": n, "padded_K": k, "padded_N": 8 * packed.shape[1], "group_size": group, "actorder": self.actorder,
            "scale_method": self.scale_method, "output_error": output_error,
        }  # fmt: skip
        return FP4GPTQResult(packed, scales, codes, mse, meta)


def fp4_gptq_quantize_weight(
    W: FloatArray,
    H: FloatArray | None = None,
    group_size: int = 128,
    actorder: bool = True,
    scale_method: ScaleMethod = "mse_grid",
) -> FP4Packed:
    """``(packed, scales, meta)`` of :class:`FP4GPTQQuantizer`."""
    result = FP4GPTQQuantizer(group_size, actorder, scale_method=scale_method).quantize_weight(W, H)
    return FP4Packed(result.packed, result.scales, result.meta)


@overload
def dequantize_fp4_gptq(
    packed: WordArray,
    scales: FloatArray,
    meta: FP4Meta | dict[str, Any],
    weights_dtype: None = None,
    output_backend: Literal["numpy"] = "numpy",
) -> Float16Array: ...
@overload
def dequantize_fp4_gptq(
    packed: WordArray,
    scales: FloatArray,
    meta: FP4Meta | dict[str, Any],
    weights_dtype: FloatDtype,
    output_backend: Literal["numpy"] = "numpy",
) -> FloatingArray: ...
@overload
def dequantize_fp4_gptq(
    packed: WordArray,
    scales: FloatArray,
    meta: FP4Meta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    *,
    output_backend: ForeignBackend,
) -> Any: ...
def dequantize_fp4_gptq(
    packed: WordArray,
    scales: FloatArray,
    meta: FP4Meta | dict[str, Any],
    weights_dtype: FloatDtype | None = None,
    output_backend: Backend = "numpy",
) -> Any:
    """The weights ``[N, K]`` that the arrays stand for, in ``weights_dtype`` (float16 by default)."""
    return _dequantize(packed, scales, meta, weights_dtype, output_backend)


def _dequantize(packed: object, scales: object, meta: object, weights_dtype: object, name: Backend) -> Any:
    module = backend(name)
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    for key in ("orig_N", "group_size"):
        if key not in meta:
            raise ValueError(f'meta: expected the key "{key}", found none')
    out = _core.dequantize_fp4_gptq(
        packed, scales, integer("meta: orig_N", meta["orig_N"]), integer("meta: group_size", meta["group_size"]),
        dtype_name("weights_dtype", weights_dtype, name),
    )  # fmt: skip
    return to_backend(out, name, module)
