"""What long work shows when its caller does not ask for anything else: warnings as Python's, progress on a terminal."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[dict[str, Any]], Any]
Line = Callable[[str], Any]


class _ProgressLine:
    """One line on stderr, rewritten at most ten times a second and removed at the end."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._width = 0

    def __call__(self, progress: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now - self._shown < 0.1:
            return True
        self._shown = now
        line = progress["stage"]
        if progress["total"] > 0:
            line += f" {progress['done']}/{progress['total']}"
        left = progress["seconds_left"]
        line += f", {progress['seconds']:.0f} s so far" if left is None else f", {left:.0f} s left"
        line += f", {progress['resident_bytes'] / 2**20:.0f} MiB"
        print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(line)
        return True

    def close(self) -> None:
        if self._width > 0:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def warn(text: str) -> None:
    """The default for ``on_warning``: a ``UserWarning`` at the line that called the package."""
    warnings.warn(text, UserWarning, stacklevel=3)


@contextmanager
def watching(on_progress: Progress | bool | None, on_warning: Line | None) -> Iterator[tuple[Progress | None, Line]]:
    """``on_progress``: a function; False: none; None or True: a line on stderr where that is a terminal."""
    line = None
    if on_progress is None or on_progress is True:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        line = _ProgressLine() if terminal else None
        on_progress = line
    elif on_progress is False:
        on_progress = None
    try:
        yield on_progress, warn if on_warning is None else on_warning
    finally:
        if line is not None:
            line.close()
