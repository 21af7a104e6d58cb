"""Checks of arguments that Python's own types need, and the way of results to the caller's array library."""

from __future__ import annotations

import operator
import os
from typing import Any

__all__ = [
    "integer",
    "number",
    "boolean",
    "permutation",
    "text",
    "token_ids",
    "choice",
    "path",
    "existing_path",
    "to_backend",
    "backend",
    "dtype_name",
]


def integer(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, found bool")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, found {type(value).__name__}") from None
    if not -(2**63) <= result < 2**63:
        raise ValueError(f"{name}: expected a 64-bit integer, found {result}")
    return result


def number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name}: expected a number, found {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise TypeError(f"{name}: expected a number, found {type(value).__name__}") from None


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, found {type(value).__name__}")
    return value


def permutation(name: str, value: Any) -> list[int]:
    """The numbers of a vector of integers; whether they are a permutation is checked where the size is known."""
    import numpy

    array = numpy.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, found {array.dtype}")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a vector that is not empty, found shape {array.shape}")
    return [int(entry) for entry in array]


def token_ids(values: Any) -> list[int]:
    ids = [integer("tokens", value) for value in values]
    for value in ids:
        if not -(2**31) <= value < 2**31:
            raise ValueError(f"tokens: expected numbers of tokens, found {value}")
    return ids


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: expected Unicode, found half a surrogate pair at character {error.start}") from None
    return value


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    found = text(name, value)
    if found not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
    return found


def path(name: str, value: Any) -> str:
    try:
        return str(os.fsdecode(os.fspath(value)))
    except TypeError:
        raise TypeError(f"{name}: expected a path, found {type(value).__name__}") from None


def existing_path(name: str, value: Any) -> str:
    result = path(name, value)
    if not os.path.exists(result):
        raise FileNotFoundError(f"{name}: expected an existing file or folder, found nothing at {result!r}")
    return result


_BACKENDS = {
    "numpy": ("numpy", "numpy"),
    "torch": ("torch", "torch"),
    "mlx": ("mlx.core", "mlx (on Linux: mlx[cpu])"),
}


def backend(name: Any) -> Any:
    """The module of an output backend; says what to install where it is missing."""
    choice("output_backend", name, tuple(_BACKENDS))
    module, package = _BACKENDS[name]
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"output_backend: {name!r} needs a package that is missing: pip install {package}") from error


def to_backend(array: Any, name: str, module: Any) -> Any:
    if name == "numpy":
        return array
    bfloat16 = array.dtype.name in ("bfloat16", "uint16")  # bits alone where ml_dtypes is missing
    if name == "torch":
        if bfloat16:
            return module.from_numpy(array.view("uint16").view("int16")).view(module.bfloat16)
        return module.from_numpy(array)
    if bfloat16:
        return module.array(array.view("uint16")).view(module.bfloat16)
    return module.array(array)


def dtype_name(name: str, value: Any, output_backend: str) -> str:
    """float16, bfloat16, float32 or float64 of a string or of a dtype of numpy, torch or mlx."""
    if value is None:
        return "float16"
    if isinstance(value, str):
        found = value
    elif isinstance(value, type) or hasattr(value, "kind"):
        import numpy

        try:
            found = numpy.dtype(value).name
        except TypeError:
            raise TypeError(f"{name}: expected a dtype, found {value!r}") from None
    else:
        found = str(value).rsplit(".", 1)[-1]
    if found not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, found {found!r}")
    if found == "bfloat16" and output_backend == "numpy":
        try:
            import ml_dtypes  # noqa: F401
        except ImportError as error:
            raise ImportError(f"{name}: bfloat16 needs a package that is missing: pip install ml_dtypes") from error
    return found
