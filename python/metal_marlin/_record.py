"""What the records of ``_records.py`` have in common."""

from __future__ import annotations

import dataclasses
import html
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar, Union

from . import _core

OptionValue = Union[None, bool, int, float, str, list[str], list[float]]  # noqa: UP007, for get_type_hints of Python 3.10
Json = Any  # what another program wrote
T = TypeVar("T", bound="Record")
_MOST_SHOWN = 60  # characters of a value in repr()


def _read(hint: Any, value: Any) -> Any:
    """``value`` of JSON as the type ``hint`` of a field: objects become records."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return value if value is None or len(inner) != 1 else _read(inner[0], value)
    if origin is list:
        return [_read(arguments[0], entry) for entry in value]
    if origin is dict:
        return {key: _read(arguments[1], entry) for key, entry in value.items()}
    return hint.from_dict(value) if isinstance(hint, type) and issubclass(hint, Record) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _short(value: Any) -> str:
    if isinstance(value, Record):
        return f"{type(value).__name__}(...)"
    if isinstance(value, (list, dict)) and len(value) > 0:
        kind = "list" if isinstance(value, list) else "dict"
        return f"<{kind} of {len(value)}>"
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else shown[: _MOST_SHOWN - 3] + "..."


def _key(field: str) -> str:
    """The name of a field in JSON: a word of Python such as ``from`` has an underscore as an attribute alone."""
    return field.removesuffix("_")


class Record:
    """A result, or a part of one: attributes, the same as items (``record["name"]``), :meth:`to_dict` and
    :meth:`to_json`. What JSON leaves out is None as an attribute, and is no item."""

    _absent: ClassVar[frozenset[str]] = frozenset()  # fields that JSON leaves out while they are None

    @classmethod
    def from_dict(cls: type[T], data: dict[str, Any]) -> T:
        """Of the object of a report. TypeError when a field is missing; keys that are no field are passed over."""
        hints = typing.get_type_hints(cls, vars(sys.modules[cls.__module__]))
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: _read(hints[name], data[_key(name)]) for name in names if _key(name) in data})

    @classmethod
    def from_json(cls: type[T], text: str) -> T:
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with nested objects as dicts."""
        return {key: _plain(value) for key, value in self._pairs()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def _pairs(self) -> list[tuple[str, Any]]:
        """Key in JSON and value of each field that JSON has."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        pairs = ((name, getattr(self, name)) for name in names)
        return [(_key(name), value) for name, value in pairs if value is not None or name not in self._absent]

    def keys(self) -> list[str]:
        return [key for key, _ in self._pairs()]

    def get(self, name: str, default: Any = None) -> Any:
        return dict(self._pairs()).get(name, default)

    def __getitem__(self, name: str) -> Any:
        return dict(self._pairs())[name]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={_short(value)}" for key, value in self._pairs())
        return f"{type(self).__name__}({fields})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(_short(value))}</td></tr>" for key, value in self._pairs()
        )
        return f"<table>{rows}</table>"


class ReportBase(Record):
    """The whole of a report.json."""

    def summary(self) -> str:
        """The result in some eight lines: verdict, figures, sizes, cost."""
        return _core.render_report_summary(json.dumps(self.to_dict()))

    def text(self) -> str:
        """What ``metal-marlin report`` prints."""
        return _core.render_report_text(json.dumps(self.to_dict()))

    def html(self) -> str:
        """One self-contained page."""
        return _core.render_report_html(json.dumps(self.to_dict()))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(line[:15].strip())}</th><td>{html.escape(line[15:])}</td></tr>"
            for line in self.summary().splitlines()
        )
        return f"<table>{rows}</table>"
