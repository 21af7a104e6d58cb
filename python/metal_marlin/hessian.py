"""Hessians of many layers, summed up while activations stream by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import _core
from ._arguments import integer, number, text
from ._results import described
from ._types import Float64Array, FloatArray

__all__ = ["HessianCollector"]

_NOT_TRACKED = ("embed", "norm", "lm_head", "bias")


class HessianCollector:
    """Sums of x^T x in float64, by the layer's name: K^2 numbers each, however many tokens.

    For one layer the name may be left out::

        collector = HessianCollector(in_features=4096)
        collector.accumulate(x)                     # [tokens, K] or [B, T, K]
        H = collector.get_hessian(damp=0.01)        # float64 [K, K]

    ``register_hooks(model)`` collects from every linear of a torch module (anything with ``named_modules`` whose modules have
    ``in_features`` and ``register_forward_hook``; torch itself is not imported). Names with "embed", "norm", "lm_head" or
    "bias" are passed over, and those that contain one of ``exclude_patterns``; with ``layer_patterns`` only names that
    contain one of them are taken. Beyond ``max_tracked_layers`` further layers are not collected: ``skipped_due_limit``
    counts their calls. ``damp_ratio`` is what :meth:`get_hessians` adds. A batch is added whole or, with an error, not at all.
    """

    def __init__(
        self,
        in_features: int | None = None,
        *,
        damp_ratio: float = 0.01,
        layer_patterns: list[str] | None = None,
        exclude_patterns: list[str] | None = None,
        max_tracked_layers: int | None = None,
    ) -> None:
        self.in_features = None if in_features is None else integer("in_features", in_features)
        if self.in_features is not None and self.in_features < 1:
            raise ValueError(f"in_features: expected at least 1, found {self.in_features}")
        self.damp_ratio = number("damp_ratio", damp_ratio)
        if not 0 <= self.damp_ratio <= 1:
            raise ValueError(f"damp_ratio: expected 0 to 1, found {self.damp_ratio}")
        self.layer_patterns = _patterns("layer_patterns", layer_patterns)
        self.exclude_patterns = _patterns("exclude_patterns", exclude_patterns) or []
        self.max_tracked_layers = (
            None if max_tracked_layers is None else integer("max_tracked_layers", max_tracked_layers)
        )
        if self.max_tracked_layers is not None and self.max_tracked_layers < 1:
            raise ValueError(f"max_tracked_layers: expected at least 1, found {self.max_tracked_layers}")
        self._sums = _core.HessianSums(self.in_features or 0)
        self._hooks: list[Any] = []
        self._skipped = 0

    def __repr__(self) -> str:
        return described(
            self, in_features=self.in_features, num_layers=self.num_layers, n_samples=self.n_samples,
            memory_bytes=self.memory_bytes,
        )  # fmt: skip

    def accumulate(self, x: FloatArray, layer: str = "") -> None:
        """Adds the inputs ``x`` (``[tokens, K]`` or ``[B, T, K]``) of ``layer``."""
        self._sums.accumulate(x, text("layer", layer))

    def get_hessian(self, damp: float = 0.01, layer: str = "") -> Float64Array:
        """float64 ``[K, K]``: x^T x / tokens, and ``damp`` times the mean of its diagonal on the diagonal. ValueError without tokens."""
        return self._sums.get_hessian(number("damp", damp), text("layer", layer))

    def get_raw_hessian(self, layer: str = "") -> Float64Array:
        """float64 ``[K, K]``: the sum of x^T x."""
        return self._sums.get_raw_hessian(text("layer", layer))

    def get_hessians(self, apply_damping: bool = True) -> dict[str, Float64Array]:
        """:meth:`get_hessian` of all layers by name, with ``damp_ratio`` or undamped."""
        damp = self.damp_ratio if apply_damping else 0.0
        return {name: self.get_hessian(damp, name) for name in self.layer_names}

    def samples(self, layer: str = "") -> int:
        """Tokens of ``layer``, 0 where it is unknown."""
        return self._sums.n_samples(text("layer", layer))

    @property
    def n_samples(self) -> int:
        """Tokens of the unnamed layer."""
        return self._sums.n_samples("")

    @property
    def H(self) -> Float64Array:
        """:meth:`get_raw_hessian` of the unnamed layer."""
        return self.get_raw_hessian()

    @property
    def layer_names(self) -> list[str]:
        return self._sums.layer_names()

    @property
    def num_layers(self) -> int:
        return len(self.layer_names)

    @property
    def memory_bytes(self) -> int:
        """Of the sums."""
        return self._sums.memory_bytes()

    @property
    def memory_mb(self) -> float:
        return self.memory_bytes / 2**20

    @property
    def skipped_due_limit(self) -> int:
        return self._skipped

    def merge(self, other: HessianCollector) -> None:
        """Adds the sums and tokens of all layers of ``other``."""
        if not isinstance(other, HessianCollector):
            raise TypeError(f"other: expected a HessianCollector, found {type(other).__name__}")
        self._sums.merge(other._sums)

    def reset(self) -> None:
        """Forgets all layers; hooks stay."""
        self._sums.reset()
        self._skipped = 0

    clear = reset

    def _tracked(self, name: str) -> bool:
        lower = name.lower()
        if any(p in lower for p in _NOT_TRACKED) or any(p.lower() in lower for p in self.exclude_patterns):
            return False
        return self.layer_patterns is None or any(p in name for p in self.layer_patterns)

    def register_hooks(self, model: Any) -> int:
        """Collects the inputs of the linears of ``model`` from now on; returns how many there are."""
        if not callable(getattr(model, "named_modules", None)):
            raise TypeError(f"model: expected a module with named_modules(), found {type(model).__name__}")
        count = 0
        for name, module in model.named_modules():
            if (
                isinstance(getattr(module, "in_features", None), int)
                and hasattr(module, "register_forward_hook")
                and self._tracked(name)
            ):
                self._hooks.append(module.register_forward_hook(self._hook(name)))
                count += 1
        return count

    def _hook(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            x = args[0] if isinstance(args, tuple) else args
            known = self.layer_names
            if name not in known and self.max_tracked_layers is not None and len(known) >= self.max_tracked_layers:
                self._skipped += 1
                return
            if hasattr(x, "detach"):
                x = x.detach()
            if hasattr(x, "cpu"):
                x = x.cpu()
            self._sums.accumulate(x.reshape(-1, x.shape[-1]), name)

        return hook

    def remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _patterns(name: str, value: object) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise TypeError(f"{name}: expected a list of strings, found a string")
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a list of strings, found {type(value).__name__}")
    return [text(name, p) for p in value]
