"""Whole models: the subcommands of ``metal-marlin`` as functions, with the same options (hyphens become
underscores; ``formats``, ``memory_bytes`` and ``context`` are ``--format``, ``--memory`` and ``--ctx-size``).

Long work takes three functions:

- ``on_progress`` gets a dict and may return False to stop. Its keys: ``stage`` (str), ``done`` and ``total`` (int, units of
  the stage: blocks, chunks, tokens; ``total`` 0: not known), ``seconds`` (float, since the start), ``seconds_left``
  (float, or None while it is not known), ``resident_bytes`` (int, memory of the process). Without a function a line on
  stderr shows it where that is a terminal; False shows nothing.
- ``on_warning`` gets each warning as a str. Without it they are issued by ``warnings.warn``.
- ``on_note`` gets remarks such as "resuming after block 3 of 30". Without it they are not shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import _core
from ._arguments import integer, path, text
from ._records import (
    CalibrateResult,
    Comparison,
    ConvertResult,
    EvaluationRecord,
    Inspection,
    Plan,
    Report,
    SensitivityReport,
)
from ._watching import Line, Progress, warn, watching

__all__ = [
    "Model", "QuantizeResult", "quantize_model", "plan_quantization", "sensitivity_of_model", "calibrate_model", "evaluate", "convert", "generate",
    "inspect", "compare", "load",
]  # fmt: skip


@dataclass
class QuantizeResult:
    """``report`` is what OUT/report.json holds (docs/report.md)."""

    report: Report
    already_complete: bool
    passed_gate: bool


def _calibration_options(options: dict[str, Any]) -> dict[str, Any]:
    options = {k: v for k, v in options.items() if v is not None}
    sources = options.get("calibration")
    if isinstance(sources, (list, tuple)):
        options["calibration"] = [path("calibration", source) for source in sources]
    elif sources is not None:
        options["calibration"] = path("calibration", sources)
    return options


def _quantize_options(options: dict[str, Any]) -> dict[str, Any]:
    options = {k: v for k, v in options.items() if v is not None}
    if "group_size" in options:
        options["group_size"] = str(options["group_size"])
    if "evaluate" in options:
        options["evaluate"] = path("evaluate", options["evaluate"])
    options = _calibration_options(options)
    for name in ("formats", "skip", "linear_bits"):
        if name in options:
            value = options[name]
            options[name] = [value] if isinstance(value, str) else list(value)
    return options


def _generate_options(options: dict[str, Any]) -> dict[str, Any]:
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(options.get("json_schema"), dict):
        options["json_schema"] = json.dumps(options["json_schema"], ensure_ascii=False)
    return options


def quantize_model(
    model: Any,
    output: Any,
    *,
    on_progress: Progress | bool | None = None,
    on_note: Line | None = None,
    on_warning: Line | None = None,
    **options: Any,
) -> QuantizeResult:
    """Quantizes ``model`` into the folder ``output`` (docs/quantize.md).

    Options, with the command's defaults: ``formats``, ``method``, ``effort``, ``scheme``, ``bits``, ``target_bits``, ``mixed_bits`` (with
    ``max_kl``), ``linear_bits`` (a list), ``sensitivity_tokens``, ``group_size``, ``range``, ``clip``,
    ``signed_scales``, ``scale_search``, ``error_feedback``, ``refine``, ``guard``, ``awq_loss``, ``first_token_weight``, ``salient_ratio``, ``activation_method``, ``damping``, ``act_order``, ``skip``, ``calibration`` (one source
    or a list), ``calibration_weights``, ``builtin_share``, ``samples``, ``select``, ``sequence_length``, ``bos``, ``seed``, ``temperature``, ``evaluate`` (a text file, or "none"), ``chunks``, ``context``,
    ``memory_bytes``, ``threads``, ``precision``, ``resume``, ``overwrite``, ``max_kl``. ``on_progress``, ``on_note`` and
    ``on_warning``: see the module's text. Stopped by ``on_progress``, the same call continues later.
    """
    with watching(on_progress, on_warning) as (progress, warning):
        report, complete, passed = _core.quantize_model(
            path("model", model), path("output", output), _quantize_options(options), progress, on_note, warning
        )
    return QuantizeResult(Report.from_json(report), complete, passed)


def plan_quantization(model: Any, output: Any, **options: Any) -> Plan:
    """What :func:`quantize_model` would do with the same options, without doing it."""
    plan = _core.plan_quantization(path("model", model), path("output", output), _quantize_options(options))
    return Plan.from_json(plan)


def sensitivity_of_model(
    model: Any,
    *,
    on_progress: Progress | bool | None = None,
    on_note: Line | None = None,
    on_warning: Line | None = None,
    **options: Any,
) -> SensitivityReport:
    """What quantizing each set of linears costs, as ``inspect --sensitivity`` measures it (docs/inspect.md).

    Options of :func:`quantize_model`; what an item could have instead is what ``formats`` hold.
    """
    with watching(on_progress, on_warning) as (progress, warning):
        out = _core.sensitivity_of_model(path("model", model), _quantize_options(options), progress, on_note, warning)
    return SensitivityReport.from_json(out)


def calibrate_model(
    model: Any,
    output: Any,
    *,
    gram: bool = True,
    keep_activations: bool = False,
    on_progress: Progress | bool | None = None,
    on_note: Line | None = None,
    on_warning: Line | None = None,
    **options: Any,
) -> CalibrateResult:
    """Writes activation statistics into the npz ``output``; with ``keep_activations`` also the raw inputs per weight.

    Options: ``calibration`` ("self", a text file, conversations in JSON Lines, or a list of such), ``calibration_weights``,
    ``samples``, ``select``, ``sequence_length``, ``bos``, ``seed``, ``temperature``, ``memory_bytes``, ``threads``,
    ``precision``, ``overwrite`` (replace statistics in ``output``).
    """
    with watching(on_progress, on_warning) as (progress, warning):
        out = _core.calibrate_model(
            path("model", model),
            path("output", output),
            _calibration_options(options),
            gram,
            keep_activations,
            progress,
            on_note,
            warning,
        )
    return CalibrateResult.from_json(out)


def evaluate(
    model: Any,
    text: Any,  # noqa: F811
    reference: Any = None,
    *,
    on_progress: Progress | bool | None = None,
    on_note: Line | None = None,
    on_warning: Line | None = None,
    **options: Any,
) -> EvaluationRecord:
    """Perplexity of ``model`` on the file ``text``; with a ``reference`` model also KL divergence and top-1 agreement.

    Options: ``chunks``, ``context``, ``bos``, ``memory_bytes``, ``threads``, ``precision``. ``perplexity.quantized``
    is that of ``model``, quantized or not; what needs a reference is None without one.
    """
    options["text"] = path("text", text)
    reference_path = "" if reference is None else path("reference", reference)
    with watching(on_progress, on_warning) as (progress, warning):
        out = _core.evaluate_model(path("model", model), reference_path, options, progress, on_note, warning)
    return EvaluationRecord.from_dict(json.loads(out)["model"])


def convert(
    model: Any,
    output: Any,
    to: str,
    *,
    overwrite: bool = False,
    threads: int = 0,
    on_progress: Progress | bool | None = None,
    on_note: Line | None = None,
    on_warning: Line | None = None,
) -> ConvertResult:
    """Writes a 4-bit checkpoint in another format without passing through floats: "native", "awq", "gptq", "gptq_v2", "marlin"."""
    with watching(on_progress, on_warning) as (progress, warning):
        out = _core.convert_model(
            path("model", model), path("output", output), text("to", to), overwrite, integer("threads", threads),
            progress, on_note, warning,
        )  # fmt: skip
    return ConvertResult.from_json(out)


def inspect(model: Any, tensors: bool = True) -> Inspection:
    """What is in a checkpoint (docs/inspect.md)."""
    return Inspection.from_json(_core.inspect_model(path("model", model), tensors))


def compare(a: Any, b: Any) -> Comparison:
    """Error of the weights of ``b`` against ``a``, per tensor and per layer (docs/compare.md)."""
    return Comparison.from_json(_core.compare_models(path("a", a), path("b", b)))


class Model:
    """A model held in memory (:func:`load`). ``stats`` are those of the last generation."""

    def __init__(self, model: Any, threads: int = 0) -> None:
        self._generator = _core.Generator(path("model", model), integer("threads", threads))
        self.stats: dict[str, Any] = {}

    def generate(
        self, prompt: str, *, on_text: Line | None = None, on_warning: Line | None = None, **options: Any
    ) -> str:
        """Continues ``prompt``.

        Options as in docs/generate.md: ``predict``, ``context``, ``temp``, ``top_k``, ``top_p``, ``min_p``,
        ``repeat_penalty``, ``repeat_last_n``, ``seed``, ``ignore_eos``, ``json_schema`` (its text, or the schema as a dict: the
        answer is JSON that fits it). ``on_text`` gets each piece as it comes and may return False to stop.
        """
        out, self.stats = self._generator.generate(
            text("prompt", prompt), _generate_options(options), on_text, warn if on_warning is None else on_warning
        )
        return out

    def chat(
        self,
        messages: Iterable[dict[str, str]],
        *,
        on_text: Line | None = None,
        on_warning: Line | None = None,
        **options: Any,
    ) -> str:
        """Answers messages ``[{"role": "user", "content": "..."}]`` by the model's chat template; options as above."""
        pairs = [(text("role", m["role"]), text("content", m["content"])) for m in messages]
        out, self.stats = self._generator.chat(
            pairs, _generate_options(options), on_text, warn if on_warning is None else on_warning
        )
        return out


def load(model: Any, threads: int = 0) -> Model:
    """Loads a model for :meth:`Model.generate` and :meth:`Model.chat`."""
    return Model(model, threads)


def generate(model: Any, prompt: str, *, on_text: Line | None = None, **options: Any) -> str:
    """Loads ``model`` and continues ``prompt``; see :meth:`Model.generate`."""
    return (model if isinstance(model, Model) else load(model)).generate(prompt, on_text=on_text, **options)
