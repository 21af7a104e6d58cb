"""Types of arguments and results. What a function accepts beyond them, it says in its text.

Arrays that go in may be of numpy, of torch or of mlx (and jax): the latter are described by what they have and numpy has not,
so that a checker still sees a numpy array of the wrong type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict, Union

import numpy as np
import numpy.typing as npt

# Not numpy.bool_ and the like: their names differ between numpy 1 and 2.
Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
FloatingArray = npt.NDArray[np.floating[Any]]
Int8Array = npt.NDArray[np.int8]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
UInt32Array = npt.NDArray[np.uint32]
BoolArray = npt.NDArray[np.bool_]


class TorchTensor(Protocol):
    """A tensor of torch."""

    @property
    def requires_grad(self) -> bool: ...
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


class IndexedArray(Protocol):
    """An array of mlx or jax."""

    @property
    def at(self) -> Any: ...
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


ForeignArray = Union[TorchTensor, IndexedArray]
#: Floats of any shape that a function asks for: float16, bfloat16, float32 or float64.
FloatArray = Union[
    FloatingArray, ForeignArray, Sequence[float], Sequence[Sequence[float]], Sequence[Sequence[Sequence[float]]]
]
CodeArray = Union[Int8Array, ForeignArray]
WordArray = Union[UInt32Array, ForeignArray]
ByteArray = Union[UInt8Array, ForeignArray]
MaskArray = Union[BoolArray, ForeignArray]


class TorchDtype(Protocol):
    """``torch.float16`` and the like."""

    @property
    def is_floating_point(self) -> bool: ...


class MlxDtype(Protocol):
    """``mlx.core.float16`` and the like."""

    @property
    def size(self) -> int: ...


FloatDtypeName = Literal["float16", "bfloat16", "float32", "float64"]
#: ml_dtypes.bfloat16 is none of numpy's types: give its name.
FloatDtype = Union[FloatDtypeName, type[np.floating[Any]], "np.dtype[np.floating[Any]]", TorchDtype, MlxDtype]

Backend = Literal["numpy", "mlx", "torch"]
ForeignBackend = Literal["mlx", "torch"]
ActivationMethod = Literal["mean", "max", "rms"]
#: The names of the table of options: tests/test_types.py compares them with quantize_model's.
Scheme = Literal["asym", "sym"]
Method = Literal["awq", "awq-paper", "awq-salient", "gptq", "rtn"]
ScaleMethod = Literal["maxabs", "mse_grid", "mse_newton", "hessian"]
FormatName = Literal["fp4", "int4", "nf4"]


class _AWQMetaKeys(TypedDict):
    in_features: int
    out_features: int
    group_size: int
    quant_type: str


class AWQMeta(_AWQMetaKeys, total=False):
    """What :func:`~metal_marlin.awq_dequantize` needs, and how the arrays were made."""

    padded_in_features: int
    scheme: Scheme
    code_offset: int
    output_error: float
    weight_error: float
    exponent: float
    salient_weights: int
    salient_channels: int
    raised_scales: int


class AWQModelStats(TypedDict):
    """What :func:`~metal_marlin.awq_quantize_model` returns."""

    quantized_count: int
    skipped_count: int
    original_bytes: int
    quantized_bytes: int
    quant_type: str
    group_size: int
    salient_ratio: float
    compression_ratio: float
    bits_per_weight: float
    skipped: dict[str, str]


class GPTQComparison(TypedDict):
    """What :func:`~metal_marlin.compare_gptq_vs_rtn` returns."""

    rtn_mse: float
    gptq_mse: float
    improvement_ratio: float
    rtn_total_error: float
    gptq_total_error: float


class FP4Meta(TypedDict):
    """What :func:`~metal_marlin.dequantize_fp4_gptq` needs, and how the arrays were made."""

    orig_K: int
    orig_N: int
    padded_K: int
    padded_N: int
    group_size: int
    actorder: bool
    scale_method: ScaleMethod
    output_error: float | None


class MRGPTQError(TypedDict):
    """Errors in the original basis."""

    mse: float
    rmse: float
    max_error: float
    relative_error: float
    output_error: float | None


class MRGPTQMeta(TypedDict):
    """What :func:`~metal_marlin.mr_gptq_dequantize` needs, and how the arrays were made."""

    layer_name: str
    original_shape: tuple[int, int]
    format: FormatName
    group_size: int
    use_hadamard: bool
    hadamard_block_size: int
    kurtosis: float
    error: MRGPTQError
