"""What the results of functions on arrays have in common."""

from __future__ import annotations

from typing import Any


def described(result: object, **facts: Any) -> str:
    """``AWQResult(in_features=512, bits=4, output_error=0.0612)``: never an array. Facts that are None are left out."""
    shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in facts.items() if v is not None)
    return f"{type(result).__name__}({', '.join(shown)})"


def shape_of(array: Any) -> tuple[int, ...]:
    """Of an array of numpy, torch or mlx; empty where it has none."""
    return tuple(int(size) for size in getattr(array, "shape", ()))
