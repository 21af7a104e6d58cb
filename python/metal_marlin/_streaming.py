"""Work that hands out its results piece by piece, as an iterator."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


def streamed(work: Callable[[Callable[[Any], bool], Callable[[], bool]], Any]) -> Iterator[Any]:
    """Yields each item that ``work(give, stopped)`` passes to ``give``, and raises what it raises.

    ``work`` runs in a thread of its own from the first ``next()`` on. When the iterator is closed or dropped, ``give``
    returns False and ``stopped`` True, and ``work`` should end.
    """
    items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    closed = threading.Event()

    def give(item: Any) -> bool:
        items.put(("item", item))
        return not closed.is_set()

    def run() -> None:
        try:
            items.put(("end", work(give, closed.is_set)))
        except BaseException as error:  # noqa: BLE001  # raised where the items are read
            items.put(("error", error))

    thread = threading.Thread(target=run, name="metal-marlin", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = items.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        closed.set()
        thread.join()
