"""The methods of ``metal-marlin quantize`` for one weight.

Weights are ``[out_features, in_features]``, as checkpoints and torch have them. Names and defaults are those of
:func:`metal_marlin.quantize_model`. The functions that the origin of this package has, with its own conventions, are in
:mod:`metal_marlin.compat`. ::

    W'[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g] / input_scale[k]        g = k // group_size
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, overload

from . import _core
from ._arguments import backend, boolean, choice, dtype_name, integer, number, to_backend
from ._results import described
from ._types import (
    Backend,
    Float16Array,
    Float32Array,
    FloatArray,
    FloatDtype,
    FloatingArray,
    ForeignBackend,
    Method,
    Scheme,
    UInt8Array,
)

__all__ = ["QuantizedMatrix", "quantize_matrix"]

_METHODS: tuple[str, ...] = get_args(Method)
_SCHEMES: tuple[str, ...] = get_args(Scheme)


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedMatrix:
    """What :func:`quantize_matrix` returns. N = out_features, K = in_features, G = groups."""

    codes: UInt8Array  #: [N, K]
    scales: Float16Array  #: [N, G]; may be negative
    zeros: UInt8Array  #: [N, G]: the code of weight 0, 2 ** (bits - 1) everywhere in a symmetric scheme
    #: [K], above 0: what a model's module before the weight would take up. Channel k was multiplied by it before rounding.
    input_scale: Float32Array
    bits: int
    group_size: int  #: never -1
    method: Method
    scheme: Scheme
    weight_error: float  #: |W' - W| / |W|
    output_error: float | None  #: |X (W' - W)^T| / |X W^T| on the inputs; None: none were given
    exponent: float  #: of the scale search; 0: no channel is scaled
    damping: float  #: with which errors were fed back; 0: they were not
    rounding: Literal["nearest", "feedback", "refined"]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        rows, columns = self.codes.shape
        return rows, columns

    @overload
    def dequantize(
        self, weights_dtype: Literal["float32"] = "float32", output_backend: Literal["numpy"] = "numpy"
    ) -> Float32Array: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype, output_backend: Literal["numpy"] = "numpy") -> FloatingArray: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype = "float32", *, output_backend: ForeignBackend) -> Any: ...
    def dequantize(self, weights_dtype: FloatDtype = "float32", output_backend: Backend = "numpy") -> Any:
        """The weight ``[out_features, in_features]`` that this stands for, in the place of the original one."""
        module = backend(output_backend)
        out = _core.dequantize_matrix(
            self.codes, self.scales, self.zeros, self.input_scale, self.group_size,
            dtype_name("weights_dtype", weights_dtype, output_backend),
        )  # fmt: skip
        return to_backend(out, output_backend, module)

    def __repr__(self) -> str:
        return described(
            self, shape=self.shape, bits=self.bits, group_size=self.group_size, scheme=self.scheme, method=self.method,
            output_error=self.output_error,
        )  # fmt: skip


@overload
def quantize_matrix(
    weight: FloatArray,
    inputs: FloatArray,
    *,
    method: Method = "awq",
    scheme: Scheme = "asym",
    bits: Literal[3, 4, 8] = 4,
    group_size: int = 128,
    damping: float | None = None,
    act_order: bool = True,
    on_progress: Callable[[dict[str, Any]], object] | None = None,
) -> QuantizedMatrix: ...
@overload
def quantize_matrix(
    weight: FloatArray,
    inputs: None = None,
    *,
    method: Literal["rtn"],
    scheme: Scheme = "asym",
    bits: Literal[3, 4, 8] = 4,
    group_size: int = 128,
    damping: float | None = None,
    act_order: bool = True,
    on_progress: Callable[[dict[str, Any]], object] | None = None,
) -> QuantizedMatrix: ...
def quantize_matrix(
    weight: FloatArray,
    inputs: FloatArray | None = None,
    *,
    method: Method = "awq",
    scheme: Scheme = "asym",
    bits: Literal[3, 4, 8] = 4,
    group_size: int = 128,
    damping: float | None = None,
    act_order: bool = True,
    on_progress: Callable[[dict[str, Any]], object] | None = None,
) -> QuantizedMatrix:
    """Quantizes ``weight [out_features, in_features]`` for ``inputs`` (``[B, T, in_features]`` or ``[tokens, in_features]``).

    ``method`` is that of ``metal-marlin quantize --method``:

    - ``awq``: the best recipe. Input channels get the scales with the least loss after error feedback, groups the ranges
      that the inputs' Gram matrix asks for. Codes are rounded with error feedback and then refined. The last eighth of
      the sequences judges how much of that is applied (of the tokens, where there is one sequence).
    - ``awq-paper``: AWQ as published. ``awq-salient``: only channels with salient weights are scaled, the largest 1 %.
    - ``gptq``: error feedback alone. ``rtn``: each weight is rounded to nearest, which needs no inputs.

    ``group_size`` -1 is one group per row; the last group may be short. ``damping``, 0 to 1, is the share of each diagonal
    entry of the Gram matrix that is added to it (``gptq``: 0.01 by default; ``awq``: the least that is tried).
    With ``act_order`` columns are rounded in the order of their activations.

    With ``awq`` the first token of each of several sequences counts nine times, because all later positions attend to it.
    Where rows of ``inputs`` are no sequences of a model, give ``[tokens, in_features]``.

    A model's module before the weight takes up the scales of input channels. A lone weight has none, so they are in
    ``input_scale``, and :meth:`QuantizedMatrix.dequantize` divides by them.
    """
    parts = _core.quantize_matrix(
        weight,
        inputs,
        choice("method", method, _METHODS),
        choice("scheme", scheme, _SCHEMES),
        integer("bits", bits),
        integer("group_size", group_size),
        None if damping is None else number("damping", damping),
        boolean("act_order", act_order),
        on_progress,
    )
    codes, scales, zeros, input_scale, size, weight_error, output_error, exponent, used, rounding = parts
    return QuantizedMatrix(
        codes, scales, zeros, input_scale, bits, size, method, scheme, weight_error, output_error, exponent, used,
        cast(Literal["nearest", "feedback", "refined"], rounding),
    )  # fmt: skip
