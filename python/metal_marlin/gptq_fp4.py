"""GPTQ onto FP4 (E2M1): +-{0, 0.5, 1, 1.5, 2, 3, 4, 6} times a float16 scale for each group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import _core
from ._arguments import backend, boolean, choice, dtype_name, integer, number, to_backend

__all__ = [
    "FP4GPTQQuantizer",
    "FP4GPTQResult",
    "FP4_GRID",
    "FP4_MAX",
    "dequantize_fp4_gptq",
    "fp4_gptq_quantize_weight",
]

#: The value of each code; code 8 is -0 and never written.
FP4_GRID: tuple[float, ...] = tuple(_core.quantization_levels("fp4"))
FP4_MAX: float = 6.0

_SCALE_METHODS = ("maxabs", "mse_grid", "mse_newton", "hessian")


@dataclass
class FP4GPTQResult:
    """What :class:`FP4GPTQQuantizer` returns. Group of column k: ``k // group_size``, whatever the order of rounding."""

    packed: Any  #: uint32 [K, ceil(N / 8)]: bits 4i..4i+3 of packed[k, r] hold the code of output 8r + i
    scales: Any  #: float16 [G, N]
    quant_indices: Any  #: uint8 [K, N]: the codes, unpacked
    mse: float  #: mean squared error of the weights, of what is stored
    meta: dict[str, Any] = field(
        default_factory=dict
    )  #: orig_K, orig_N, padded_K (= orig_K), padded_N, group_size, actorder, scale_method, output_error


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
        scale_method: str = "mse_grid",
        block_size: int = 128,
    ) -> None:
        self.group_size = integer("group_size", group_size)
        self.actorder = boolean("actorder", actorder)
        self.damp_factor = number("damp_factor", damp_factor)
        self.scale_method = choice("scale_method", scale_method, _SCALE_METHODS)
        self.block_size = integer("block_size", block_size)
        if self.block_size != 128:
            raise ValueError(f"block_size: expected 128 (the result does not depend on it), found {self.block_size}")
        _core.check_fp4_gptq(self.group_size, self.actorder, self.damp_factor, self.scale_method)

    def quantize_weight(self, W: Any, H: Any = None) -> FP4GPTQResult:
        """``W [N, K]`` by the Hessian ``H [K, K]`` (:func:`~metal_marlin.compute_hessian`); without one by plain rounding."""
        packed, scales, codes, mse, output_error, k, n, group = _core.fp4_gptq(
            W, H, self.group_size, self.actorder, self.damp_factor, self.scale_method
        )
        meta = {
            "orig_K": k, "orig_N": n, "padded_K": k, "padded_N": 8 * packed.shape[1], "group_size": group, "actorder": self.actorder,
            "scale_method": self.scale_method, "output_error": output_error,
        }  # fmt: skip
        return FP4GPTQResult(packed, scales, codes, mse, meta)


def fp4_gptq_quantize_weight(
    W: Any, H: Any = None, group_size: int = 128, actorder: bool = True, scale_method: str = "mse_grid"
) -> tuple[Any, Any, dict[str, Any]]:
    """``(packed, scales, meta)`` of :class:`FP4GPTQQuantizer`."""
    result = FP4GPTQQuantizer(group_size, actorder, scale_method=scale_method).quantize_weight(W, H)
    return result.packed, result.scales, result.meta


def dequantize_fp4_gptq(
    packed: Any, scales: Any, meta: dict[str, Any], weights_dtype: Any = None, output_backend: str = "numpy"
) -> Any:
    """The weights ``[N, K]`` that the arrays stand for, in ``weights_dtype`` (float16 by default)."""
    module = backend(output_backend)
    if not isinstance(meta, dict):
        raise TypeError(f"meta: expected a dict, found {type(meta).__name__}")
    for key in ("orig_N", "group_size"):
        if key not in meta:
            raise ValueError(f'meta: expected the key "{key}", found none')
    out = _core.dequantize_fp4_gptq(
        packed, scales, integer("meta: orig_N", meta["orig_N"]), integer("meta: group_size", meta["group_size"]),
        dtype_name("weights_dtype", weights_dtype, output_backend),
    )  # fmt: skip
    return to_backend(out, output_backend, module)
