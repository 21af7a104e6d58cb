"""GPTQ of one matrix at a time, with the signature and the layout of :mod:`metal_marlin.awq`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import _core
from ._arguments import backend, choice, dtype_name, integer, number, to_backend

__all__ = ["GPTQPacked", "gptq_quantize", "gptq_dequantize"]


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
    if not isinstance(act_order, bool):
        raise TypeError(f"act_order: expected a bool, found {type(act_order).__name__}")
    parts = _core.gptq_quantize(
        weights,
        activations,
        integer("group_size", group_size),
        number("damping", damping),
        act_order,
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
    out = _core.gptq_dequantize(packed, scales, zeros, meta, dtype_name("weights_dtype", weights_dtype))
    return to_backend(out, output_backend, module)
