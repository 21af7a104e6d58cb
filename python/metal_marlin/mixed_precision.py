"""Which layer gets how many bits: configurations, what a layer loses at each precision, and the choice under a bound."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from . import _core
from ._arguments import boolean, choice, integer, number, text
from ._records import SensitivityReport
from ._types import Float32Array, FloatArray

__all__ = [
    "Precision",
    "LayerQuantConfig",
    "PrecisionCost",
    "LayerSensitivity",
    "MixedPrecisionConfig",
    "analyze_layer_sensitivity",
]


class Precision(Enum):
    """What a weight is stored as."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP4_E2M1 = "fp4"
    NF4 = "nf4"
    INT8 = "int8"
    INT4 = "int4"
    INT3 = "int3"
    INT2 = "int2"


@dataclass(frozen=True)
class LayerQuantConfig:
    """``group_size`` along in_features (-1: one group per row) is not read of fp16 and bf16, ``symmetric`` only of integers."""

    precision: Precision = Precision.FP4_E2M1
    group_size: int = 128
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.precision, Precision):
            raise TypeError(f"precision: expected a Precision, found {type(self.precision).__name__}")
        boolean("symmetric", self.symmetric)
        size = integer("group_size", self.group_size)
        if size != -1 and size < 1:
            raise ValueError(f"group_size: expected at least 1, or -1 for one group per row, found {size}")

    def bits_per_weight(self, in_features: int = 0) -> float:
        """Codes, 16 bits for each group's scale and, not symmetric, a zero of a code's width."""
        return _core.bits_per_weight(self._tuple(), integer("in_features", in_features))

    def _tuple(self) -> tuple[str, int, bool]:
        return self.precision.value, self.group_size, self.symmetric

    @classmethod
    def _of(cls, parts: tuple[str, int, bool]) -> LayerQuantConfig:
        return cls(Precision(parts[0]), parts[1], parts[2])


@dataclass
class PrecisionCost:
    """What a layer loses at one precision; None: not known."""

    config: LayerQuantConfig
    kl: float | None = None  #: KL divergence (nats) of the model in which it alone has this precision
    output_error: float | None = None  #: |X (W' - W)^T| / |X W^T| on calibration inputs


@dataclass
class LayerSensitivity:
    """What a layer loses by quantization, from measurements of a model (:meth:`from_model`, :meth:`from_rows`) or of its weights
    (:func:`analyze_layer_sensitivity`)."""

    name: str
    weights: int = 0  #: their number
    in_features: int = 0
    hessian_trace: float = 0.0
    weight_variance: float = 0.0
    outlier_ratio: float = 0.0  #: share of weights more than 3 standard deviations from their mean
    costs: list[PrecisionCost] = field(default_factory=list)
    recommended_bits: int | None = None  #: the choice of MixedPrecisionConfig.from_sensitivity; None: none yet
    recommended_format: str | None = None
    linears: list[str] = field(
        default_factory=list
    )  #: names of the weights where it stands for several that share an input

    @classmethod
    def from_model(cls, sensitivity: SensitivityReport | dict[str, Any]) -> list[LayerSensitivity]:
        """Of the result of :func:`~metal_marlin.sensitivity_of_model`: one for each set of linears that share an input."""
        if isinstance(sensitivity, SensitivityReport):
            sensitivity = sensitivity.to_dict()
        if not isinstance(sensitivity, dict):
            raise TypeError(f"sensitivity: expected a SensitivityReport or a dict, found {type(sensitivity).__name__}")
        profile = []
        for parts in _core.sensitivity_profile(json.dumps(sensitivity)):
            costs = [PrecisionCost(LayerQuantConfig._of(config), kl, error) for config, kl, error in parts.pop("costs")]
            profile.append(cls(costs=costs, **parts))
        return profile

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> list[LayerSensitivity]:
        """Layers from measured rows: ``name``, ``weights`` (number), ``bits`` (2, 3, 4, 8, 16), ``kl``, and optionally ``group_size`` (128)
        and ``symmetric`` (True). Rows of one name make one layer, in the order of first appearance."""
        layers: dict[str, LayerSensitivity] = {}
        precisions = {2: Precision.INT2, 3: Precision.INT3, 4: Precision.INT4, 8: Precision.INT8, 16: Precision.BF16}
        for row in rows:
            if not isinstance(row, dict):
                raise TypeError(f"rows: expected dicts, found {type(row).__name__}")
            for key in ("name", "weights", "bits", "kl"):
                if key not in row:
                    raise ValueError(f'rows: expected the key "{key}", found none')
            bits = integer("rows: bits", row["bits"])
            if bits not in precisions:
                raise ValueError(f"rows: bits: expected 2, 3, 4, 8 or 16, found {bits}")
            name, weights = text("rows: name", row["name"]), integer("rows: weights", row["weights"])
            layer = layers.setdefault(name, cls(name, weights))
            if layer.weights != weights:
                raise ValueError(
                    f"rows: weights: expected {layer.weights} as in the first row of {name!r}, found {weights}"
                )
            config = LayerQuantConfig(precisions[bits], row.get("group_size", 128), row.get("symmetric", True))
            kl = number("rows: kl", row["kl"])
            if not 0 <= kl < float("inf"):
                raise ValueError(f"rows: kl: expected a finite number >= 0, found {kl} of {name!r}")
            layer.costs.append(PrecisionCost(config, kl))
        return list(layers.values())


def analyze_layer_sensitivity(W: FloatArray, H: FloatArray, name: str = "", group_size: int = 128) -> LayerSensitivity:
    """Measures the output error of ``W [N, K]`` by GPTQ with ``H [K, K]`` as fp4, nf4, int3, int4 and int8 (symmetric)."""
    parts = _core.analyze_layer_sensitivity(W, H, text("name", name), integer("group_size", group_size))
    costs = [PrecisionCost(LayerQuantConfig._of(config), kl, error) for config, kl, error in parts.pop("costs")]
    return LayerSensitivity(costs=costs, **parts)


def _fp4(group_size: int) -> Any:
    return field(default_factory=lambda: LayerQuantConfig(Precision.FP4_E2M1, group_size))


def _bf16() -> Any:
    return field(default_factory=lambda: LayerQuantConfig(Precision.BF16))


@dataclass
class MixedPrecisionConfig:
    """A precision for each role of a layer, and for layers by name, which go first."""

    default: LayerQuantConfig = _fp4(128)
    embeddings: LayerQuantConfig = _bf16()
    lm_head: LayerQuantConfig = _bf16()
    norms: LayerQuantConfig = _bf16()
    attention_qkv: LayerQuantConfig = _fp4(64)
    attention_out: LayerQuantConfig = _fp4(64)
    mlp_gate: LayerQuantConfig = _fp4(128)
    mlp_up: LayerQuantConfig = _fp4(128)
    mlp_down: LayerQuantConfig = _fp4(128)
    moe_router: LayerQuantConfig = _bf16()
    moe_experts: LayerQuantConfig = _fp4(128)
    moe_shared_expert: LayerQuantConfig = _fp4(64)
    layers: dict[str, LayerQuantConfig] = field(default_factory=dict)

    @classmethod
    def default_dense(cls) -> MixedPrecisionConfig:
        return cls()

    @classmethod
    def from_sensitivity(
        cls, profile: list[LayerSensitivity], target_bits: float, by: Literal["kl", "output_error"] = "kl"
    ) -> MixedPrecisionConfig:
        """The precisions of least loss whose mean bits per weight are at most ``target_bits``, in ``layers``.

        ``by``: the sum of the costs' ``kl``, or (``"output_error"``) of the squares of their output errors. No other choice
        loses less; it is the one that ``quantize_model(target_bits=...)`` makes. Also fills ``recommended_bits`` and
        ``recommended_format``. ValueError: a layer without such costs, or a target below what the cheapest need.
        """
        measure = choice("by", by, ("kl", "output_error"))
        target = number("target_bits", target_bits)
        layers = []
        for s in profile:
            if not isinstance(s, LayerSensitivity):
                raise TypeError(f"profile: expected LayerSensitivity, found {type(s).__name__}")
            costs = [(c.config._tuple(), getattr(c, measure)) for c in s.costs]
            costs = [(c, v if measure == "kl" else v * v) for c, v in costs if v is not None]
            layers.append((s.name, s.weights, s.in_features, costs))
        chosen = [LayerQuantConfig._of(c) for c in _core.choose_precisions(layers, target)]
        for s, config in zip(profile, chosen):
            s.recommended_format = config.precision.value
            s.recommended_bits = (
                16 if config.precision in (Precision.FP16, Precision.BF16) else int(s.recommended_format[-1])
            )
        return cls(layers={name: config for s, config in zip(profile, chosen) for name in s.linears or [s.name]})

    def layer(self, name: str) -> LayerQuantConfig:
        """Of a tensor's name as checkpoints have it, "model.layers.0.mlp.down_proj.weight" say."""
        return self.layers.get(text("name", name)) or getattr(self, _core.layer_role(name))

    def linear_bits(self) -> list[str]:
        """``layers`` as the option ``linear_bits`` of :func:`~metal_marlin.quantize_model` takes them. ValueError for precisions that no
        checkpoint format here has (fp4, nf4, int2)."""
        return _core.linear_bits([(name, config._tuple()) for name, config in self.layers.items()])

    def quantize(self, name: str, W: FloatArray, H: FloatArray | None = None) -> Float32Array:
        """float32 ``[N, K]``: the values of ``W [N, K]`` at the precision of ``name``, by GPTQ with ``H [K, K]`` or plainly."""
        return _core.quantize_values(W, self.layer(name)._tuple(), H)
