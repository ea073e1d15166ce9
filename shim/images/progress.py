"""How far pulls are, and who wants to hear of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Report = Callable[[str, str, int, int], None]
"""(item, phase, done_bytes, total_bytes): item is a digest.

Phases: waiting, downloading, unpacking, done; or exists.
"""


@dataclass(frozen=True, slots=True)
class PullState:
    """A pull under way.

    Attributes:
        reference: what is pulled.
        started_at_ns: since the epoch.
        callers: how many wait for it.
        fetched_bytes: that came over the network, compressed, what was fetched twice included.
        unpacked_bytes: of the layers' compressed bytes, those that were unpacked.
        total_bytes: of the layers that are to be fetched; 0 while that is not known.
        layers_done, layers: how many layers are here, and of how many; 0 while that is not known.
    """

    reference: str
    started_at_ns: int
    callers: int
    fetched_bytes: int
    unpacked_bytes: int
    total_bytes: int
    layers_done: int
    layers: int


@dataclass(slots=True)
class Tracker:
    """Keeps the last report of each item of one pull."""

    reference: str
    started_at_ns: int = field(default_factory=time.time_ns)
    items: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    count: int = 0

    def hear(self, item: str, phase: str, done_bytes: int, total_bytes: int) -> None:
        """Take a report."""
        self.items[item] = phase, done_bytes, total_bytes

    def fetched_layers(self) -> int:
        """Return how many layers were not here before."""
        return sum(phase == "done" for phase, _, _ in self.items.values())

    def state(self, callers: int, fetched_bytes: int) -> PullState:
        """Return how far the pull is."""
        moved = [(phase, done, total) for phase, done, total in self.items.values() if phase != "exists"]
        return PullState(
            reference=self.reference,
            started_at_ns=self.started_at_ns,
            callers=callers,
            fetched_bytes=fetched_bytes,
            unpacked_bytes=sum(done for _, done, _ in moved),
            total_bytes=sum(total for _, _, total in moved),
            layers_done=sum(phase in ("exists", "done") for phase, _, _ in self.items.values()),
            layers=self.count,
        )


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
