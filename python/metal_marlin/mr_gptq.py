"""MR-GPTQ (arXiv 2509.23202): a Hadamard rotation of the input channels, then GPTQ on 4-bit levels; reports of whole models."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np

from . import _core
from ._arguments import backend, boolean, dtype_name, existing_path, integer, number, text, to_backend
from ._records import Report
from ._results import described
from ._types import (
    Backend,
    Float16Array,
    Float32Array,
    FloatArray,
    FloatDtype,
    FloatingArray,
    ForeignBackend,
    FormatName,
    MRGPTQMeta,
    UInt32Array,
    WordArray,
)

__all__ = [
    "MRGPTQQuantizer", "QuantizationFormat", "QuantizationReport", "QuantizationLayerReport", "hadamard_rotate", "mr_gptq_dequantize",
    "MRGPTQResult", "MRGPTQMeta",
]  # fmt: skip


class QuantizationFormat(str, Enum):
    """What a 4-bit code stands for, times the scale of its group."""

    FP4 = "fp4"  #: E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}
    INT4 = "int4"  #: -8..7, code - 8
    NF4 = "nf4"  #: the 16 levels of QLoRA (arXiv 2305.14314), -1 to 1

    @property
    def levels(self) -> Float32Array:
        """float32 [16]: the value of each code."""
        return np.array(_core.quantization_levels(self.value), np.float32)


def _format(value: object) -> QuantizationFormat:
    if isinstance(value, QuantizationFormat):
        return value
    name = text("format", value).lower()
    try:
        return QuantizationFormat(name)
    except ValueError:
        raise ValueError(f"format: expected fp4, int4 or nf4, found {value!r}") from None


class MRGPTQResult(NamedTuple):
    """What :meth:`MRGPTQQuantizer.quantize_layer` returns."""

    packed: UInt32Array  #: [N, ceil(K / 8)]
    scales: Float16Array  #: [N, G]
    metadata: MRGPTQMeta

    @overload
    def dequantize(
        self, weights_dtype: Literal["float32"] = "float32", output_backend: Literal["numpy"] = "numpy"
    ) -> Float32Array: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype, output_backend: Literal["numpy"] = "numpy") -> FloatingArray: ...
    @overload
    def dequantize(self, weights_dtype: FloatDtype = "float32", *, output_backend: ForeignBackend) -> Any: ...
    def dequantize(self, weights_dtype: FloatDtype = "float32", output_backend: Backend = "numpy") -> Any:
        """:func:`mr_gptq_dequantize`: the weights ``[N, K]`` in the original basis."""
        return _dequantize(self.packed, self.scales, self.metadata, weights_dtype, output_backend, True)

    def __repr__(self) -> str:
        rows, columns = self.metadata["original_shape"]
        return described(
            self, out_features=rows, in_features=columns, bits=4, group_size=self.metadata["group_size"],
            scheme=self.metadata["format"], output_error=self.metadata["error"]["output_error"],
        )  # fmt: skip

    # Comparing arrays gives no truth value.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


class MRGPTQQuantizer:
    """Quantizes ``W R`` by GPTQ, where R rotates blocks of input channels: ``x W^T = (x R)(W R)^T``.

    R is block-diagonal of Hadamard matrices over the square root of their size, symmetric and its own inverse. Blocks have
    ``hadamard_block_size`` channels, a power of two; what remains of K is divided into powers of two, so nothing is padded.
    With ``hadamard_kurtosis_threshold`` only layers are rotated whose weights have at least that excess kurtosis (0 for
    normal ones). ``percdamp`` is the share of the mean of the Hessian's diagonal that is added to it. Scales are those of
    least e H_gg e^T with a Hessian, of least squared error without. ``bits`` can only be 4.
    """

    def __init__(
        self,
        bits: int = 4,
        format: FormatName | QuantizationFormat = "fp4",
        group_size: int = 128,
        use_hadamard: bool = True,
        hadamard_block_size: int = 64,
        hadamard_kurtosis_threshold: float | None = None,
        actorder: bool = True,
        percdamp: float = 0.01,
    ) -> None:
        self.bits = integer("bits", bits)
        self.format = _format(format)
        self.group_size = integer("group_size", group_size)
        self.use_hadamard = boolean("use_hadamard", use_hadamard)
        self.hadamard_block_size = integer("hadamard_block_size", hadamard_block_size)
        self.hadamard_kurtosis_threshold = (
            None
            if hadamard_kurtosis_threshold is None
            else number("hadamard_kurtosis_threshold", hadamard_kurtosis_threshold)
        )
        self.actorder = boolean("actorder", actorder)
        self.percdamp = number("percdamp", percdamp)
        _core.check_mr_gptq(*self._options(self.use_hadamard))

    def __repr__(self) -> str:
        return described(
            self, bits=self.bits, format=self.format.value, group_size=self.group_size, use_hadamard=self.use_hadamard,
            hadamard_block_size=self.hadamard_block_size, hadamard_kurtosis_threshold=self.hadamard_kurtosis_threshold,
            actorder=self.actorder, percdamp=self.percdamp,
        )  # fmt: skip

    @property
    def grid(self) -> Float32Array:
        """float32 [16]: the value of each code."""
        return self.format.levels

    def _options(self, use_hadamard: bool) -> tuple[int, str, int, bool, int, float | None, bool, float]:
        return (
            self.bits, self.format.value, self.group_size, use_hadamard, self.hadamard_block_size, self.hadamard_kurtosis_threshold,
            self.actorder, self.percdamp,
        )  # fmt: skip

    def quantize_layer(
        self,
        weights: FloatArray,
        hessian: FloatArray | None = None,
        layer_name: str = "",
        use_hadamard: bool | None = None,
    ) -> MRGPTQResult:
        """``(packed, scales, metadata)`` of ``weights [N, K]`` by ``hessian [K, K]`` of the *unrotated* inputs.

        ``packed`` is uint32 ``[N, ceil(K / 8)]``, bits 4i..4i+3 of word r for column 8r + i; ``scales`` float16 ``[N, G]``.
        ``metadata``: ``layer_name``, ``original_shape``, ``format``, ``group_size``, ``use_hadamard`` (whether it was rotated),
        ``hadamard_block_size`` (0: not), ``kurtosis``, and ``error``, measured in the original basis: ``mse``, ``rmse``,
        ``max_error``, ``relative_error`` (of the norm) and ``output_error`` (relative; None without a Hessian).
        Without a Hessian rounding is plain. ``use_hadamard`` stands in for the constructor's.
        """
        name = text("layer_name", layer_name)
        rotate = self.use_hadamard if use_hadamard is None else boolean("use_hadamard", use_hadamard)
        packed, scales, metadata = _core.mr_gptq(weights, hessian, *self._options(rotate))
        return MRGPTQResult(packed, scales, cast(MRGPTQMeta, {"layer_name": name, **metadata}))

    def dequantize(
        self,
        packed: WordArray,
        scales: FloatArray,
        metadata: MRGPTQMeta | dict[str, Any],
        weights_dtype: FloatDtype = "float32",
    ) -> FloatingArray:
        """:func:`mr_gptq_dequantize`: the weights in the original basis."""
        return mr_gptq_dequantize(packed, scales, metadata, weights_dtype)


@overload
def mr_gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    metadata: MRGPTQMeta | dict[str, Any],
    weights_dtype: Literal["float32"] = "float32",
    output_backend: Literal["numpy"] = "numpy",
    *,
    original_basis: bool = True,
) -> Float32Array: ...
@overload
def mr_gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    metadata: MRGPTQMeta | dict[str, Any],
    weights_dtype: FloatDtype,
    output_backend: Literal["numpy"] = "numpy",
    *,
    original_basis: bool = True,
) -> FloatingArray: ...
@overload
def mr_gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    metadata: MRGPTQMeta | dict[str, Any],
    weights_dtype: FloatDtype = "float32",
    *,
    output_backend: ForeignBackend,
    original_basis: bool = True,
) -> Any: ...
def mr_gptq_dequantize(
    packed: WordArray,
    scales: FloatArray,
    metadata: MRGPTQMeta | dict[str, Any],
    weights_dtype: FloatDtype = "float32",
    output_backend: Backend = "numpy",
    *,
    original_basis: bool = True,
) -> Any:
    """The weights ``[N, K]`` that :meth:`MRGPTQQuantizer.quantize_layer` stored, in the original basis.

    With ``original_basis=False`` those of the rotated inputs: multiply ``hadamard_rotate(x, block_size)`` by them.
    """
    return _dequantize(packed, scales, metadata, weights_dtype, output_backend, original_basis)


def _dequantize(
    packed: object, scales: object, metadata: object, weights_dtype: object, name: Backend, original_basis: object
) -> Any:
    module = backend(name)
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, found {type(metadata).__name__}")
    for key in ("original_shape", "format", "group_size", "hadamard_block_size"):
        if key not in metadata:
            raise ValueError(f'metadata: expected the key "{key}", found none')
    shape = metadata["original_shape"]
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ValueError(f"metadata: original_shape: expected [N, K], found {shape!r}")
    rows, columns = (integer("metadata: original_shape", size) for size in shape)
    if (found := getattr(packed, "shape", (rows,))[0]) != rows:
        raise ValueError(f"metadata: original_shape: expected {found} rows as in packed, found {rows}")
    out = _core.mr_gptq_dequantize(
        packed, scales, _format(metadata["format"]).value, columns,
        integer("metadata: group_size", metadata["group_size"]), integer("metadata: hadamard_block_size", metadata["hadamard_block_size"]),
        boolean("original_basis", original_basis), dtype_name("weights_dtype", weights_dtype, name),
    )  # fmt: skip
    return to_backend(out, name, module)


def hadamard_rotate(matrix: FloatArray, block_size: int = 64) -> Float32Array:
    """float32 ``[rows, features]``: ``matrix`` R, R as in :class:`MRGPTQQuantizer`. Applied twice it is the identity."""
    return _core.hadamard_rotate(matrix, integer("block_size", block_size))


@dataclass
class QuantizationLayerReport:
    """One linear of a :class:`QuantizationReport`."""

    name: str
    shape: tuple[int, ...]  #: (out_features, in_features)
    group_size: int
    bits: int
    method: str
    weight_error: float  #: |W' - W| / |W|
    output_error: float | None  #: of the outputs on the calibration text, relative; None: not measured


@dataclass
class QuantizationReport:
    """The figures of a run of :func:`~metal_marlin.quantize_model`; all of it is in its report.json (docs/report.md)."""

    model_path: str
    output_path: str
    formats: list[str]  #: native, awq, gptq, gptq_v2, marlin
    bits: int
    group_size: int
    actorder: bool
    quantized_layers: int
    skipped_layers: int
    total_params: int
    quantized_params: int
    compression_ratio: float  #: bytes of the source's weights / bytes of the quantized model
    bits_per_weight: float
    mean_output_error: float | None
    kl_divergence: float | None  #: nats; None: not evaluated
    layers: list[QuantizationLayerReport] = field(default_factory=list)

    @classmethod
    def from_report(cls, report: Report | dict[str, Any] | str, output_path: str = "") -> QuantizationReport:
        """Of a report (``QuantizeResult.report``, a dict or JSON). FormatError (a ValueError) when it is none."""
        if isinstance(report, Report):
            report = report.to_dict()
        if not isinstance(report, (dict, str)):
            raise TypeError(f"report: expected a Report, a dict or JSON, found {type(report).__name__}")
        figures = _core.report_figures(json.dumps(report) if isinstance(report, dict) else report)
        layers = [QuantizationLayerReport(**layer) for layer in figures.pop("layers")]
        return cls(output_path=text("output_path", output_path), layers=layers, **figures)

    @classmethod
    def from_run(cls, output: str | os.PathLike[str]) -> QuantizationReport:
        """Of an output folder of ``quantize_model``, or of its report.json."""
        path = existing_path("output", output)
        return cls.from_report(_core.read_report(path), path)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        out = asdict(self)
        for layer in out["layers"]:
            layer["shape"] = list(layer["shape"])
        return out
