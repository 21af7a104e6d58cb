"""The interface of an implementation of GPTQ on Apple's GPUs. Here all of it is computed on the CPU, with the same results."""

from __future__ import annotations

from typing import NamedTuple

from . import _core
from ._arguments import boolean, integer, number
from ._results import described, shape_of
from ._types import Float32Array, Float64Array, FloatArray

__all__ = ["GPTQMetal", "GPTQMetalResult", "compute_hessian_metal", "cholesky_decompose"]


class GPTQMetalResult(NamedTuple):
    """What :meth:`GPTQMetal.quantize_weight_gptq` returns."""

    quantized: Float32Array  #: [N, K], the values
    scales: Float32Array  #: [G, N]
    zeros: Float32Array  #: [G, N], all 0

    def dequantize(self) -> Float32Array:
        """The weights ``[N, K]`` that this stands for: ``quantized``."""
        return self.quantized

    def __repr__(self) -> str:
        shape = shape_of(self.quantized)
        return described(
            self, out_features=shape[0], in_features=shape[1], groups=shape_of(self.scales)[0], scheme="sym"
        )

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


class GPTQMetal:
    """``device`` can only be None or "cpu": there is no kernel for the GPU yet."""

    def __init__(self, device: object = None) -> None:
        if device is not None and str(device) != "cpu":
            raise ValueError(
                f"device: expected None or 'cpu' (there is no kernel for the GPU yet), found {str(device)!r}"
            )
        self.device = "cpu"

    def __repr__(self) -> str:
        return described(self, device=self.device)

    def compute_hessian(self, activations: FloatArray, normalize: bool = True) -> Float64Array:
        """float64 ``[K, K]``: 2 X^T X, divided by the tokens when ``normalize``, of ``[tokens, K]`` or ``[B, T, K]``."""
        return _core.compute_hessian(activations, boolean("normalize", normalize))

    def cholesky_decompose(self, H: FloatArray, regularization: float = 1e-6) -> Float64Array:
        """float64 ``[K, K]``: lower triangular L, L L^T = H + ``regularization`` I. NumericError when that is not positive definite."""
        return _core.cholesky_decompose(H, number("regularization", regularization))

    def quantize_weight_gptq(
        self, weight: FloatArray, H: FloatArray, bits: int = 4, blocksize: int = 128, percdamp: float = 0.01
    ) -> GPTQMetalResult:
        """``(quantized, scales, zeros)`` of ``weight [N, K]``, by GPTQ with act order on symmetric integers of ``bits`` (2, 3, 4, 8).

        ``quantized`` is float32 ``[N, K]``: integers times ``scales[k // blocksize, n]``; ``scales`` float32 ``[G, N]``;
        ``zeros`` the same shape, all 0. The last group may be short; ``blocksize`` -1 is one group per row.
        """
        parts = _core.gptq_metal(
            weight, H, integer("bits", bits), integer("blocksize", blocksize), number("percdamp", percdamp)
        )
        return GPTQMetalResult(*parts)


def compute_hessian_metal(activations: FloatArray, normalize: bool = True) -> Float64Array:
    """:meth:`GPTQMetal.compute_hessian`, computed on the CPU."""
    return GPTQMetal().compute_hessian(activations, normalize)


def cholesky_decompose(H: FloatArray, regularization: float = 1e-6) -> Float64Array:
    """:meth:`GPTQMetal.cholesky_decompose`."""
    return GPTQMetal().cholesky_decompose(H, regularization)
