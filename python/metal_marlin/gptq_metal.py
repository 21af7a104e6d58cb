"""The interface of an implementation of GPTQ on Apple's GPUs. Here all of it is computed on the CPU, with the same results."""

from __future__ import annotations

from typing import Any

from . import _core
from ._arguments import boolean, integer, number

__all__ = ["GPTQMetal", "compute_hessian_metal", "cholesky_decompose"]


class GPTQMetal:
    """``device`` can only be None or "cpu": there is no kernel for the GPU yet."""

    def __init__(self, device: Any = None) -> None:
        if device is not None and str(device) != "cpu":
            raise ValueError(
                f"device: expected None or 'cpu' (there is no kernel for the GPU yet), found {str(device)!r}"
            )
        self.device = "cpu"

    def compute_hessian(self, activations: Any, normalize: bool = True) -> Any:
        """float64 ``[K, K]``: 2 X^T X, divided by the tokens when ``normalize``, of ``[tokens, K]`` or ``[B, T, K]``."""
        return _core.compute_hessian(activations, boolean("normalize", normalize))

    def cholesky_decompose(self, H: Any, regularization: float = 1e-6) -> Any:
        """float64 ``[K, K]``: lower triangular L, L L^T = H + ``regularization`` I. NumericError when that is not positive definite."""
        return _core.cholesky_decompose(H, number("regularization", regularization))

    def quantize_weight_gptq(
        self, weight: Any, H: Any, bits: int = 4, blocksize: int = 128, percdamp: float = 0.01
    ) -> tuple[Any, Any, Any]:
        """``(quantized, scales, zeros)`` of ``weight [N, K]``, by GPTQ with act order on symmetric integers of ``bits`` (2, 3, 4, 8).

        ``quantized`` is float32 ``[N, K]``: integers times ``scales[k // blocksize, n]``; ``scales`` float32 ``[G, N]``;
        ``zeros`` the same shape, all 0. The last group may be short; ``blocksize`` -1 is one group per row.
        """
        return _core.gptq_metal(
            weight, H, integer("bits", bits), integer("blocksize", blocksize), number("percdamp", percdamp)
        )


def compute_hessian_metal(activations: Any, normalize: bool = True) -> Any:
    """:meth:`GPTQMetal.compute_hessian`, computed on the CPU."""
    return GPTQMetal().compute_hessian(activations, normalize)


def cholesky_decompose(H: Any, regularization: float = 1e-6) -> Any:
    """:meth:`GPTQMetal.cholesky_decompose`."""
    return GPTQMetal().cholesky_decompose(H, regularization)
