"""Who wants to hear how far a pull is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

Report = Callable[[str, str, int, int], None]
"""(item, phase, done_bytes, total_bytes): item is a digest.

Phases: waiting, downloading, unpacking, done; or exists.
"""


class ProgressHub:
    """Passes reports on to all that asked for the item: one download serves several pulls."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Report]] = {}

    @contextlib.contextmanager
    def listen(self, keys: Iterable[str], report: Report | None) -> Iterator[None]:
        """Hear of ``keys`` within the context; None hears nothing."""
        keys = tuple(keys) if report is not None else ()
        for key in keys:
            if report is not None:
                self._listeners.setdefault(key, []).append(report)
        try:
            yield
        finally:
            for key in keys:
                listeners = self._listeners[key]
                if report is not None:
                    listeners.remove(report)
                if not listeners:
                    del self._listeners[key]

    def report(self, key: str, item: str, phase: str, done_bytes: int, total_bytes: int) -> None:
        """Tell those who listen to ``key``."""
        for listener in tuple(self._listeners.get(key, ())):
            listener(item, phase, done_bytes, total_bytes)

    def relay(self, key: str) -> Report:
        """Return a report that passes everything on to those who listen to ``key``."""
        return lambda item, phase, done, total: self.report(key, item, phase, done, total)
