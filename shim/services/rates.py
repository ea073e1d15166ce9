"""How fast CPU time is used: from two readings of a counter that lie at least a second apart.

For a cgroup that was read once, or never, the time since its start counts: at its start the counter was 0. So
the first question has an answer, also just after the daemon was started. Used in the thread of the statistics
alone. Pure but for what it remembers.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

MIN_INTERVAL_NS: Final = 1_000_000_000


@dataclass(slots=True)
class _Readings:
    """(time, counter) of the reading before the last one that counts, and of that one."""

    before: tuple[int, int]
    last: tuple[int, int]


class Rates:
    """The last readings, by id."""

    def __init__(self) -> None:
        self._readings: dict[str, _Readings] = {}

    def note(self, id_: str, timestamp_ns: int, usage_ns: int, began_ns: int) -> int | None:
        """Take note of a reading; return the use in ns a second, or None if no time has passed yet.

        Args:
            id_: whose counter it is.
            timestamp_ns: when it was read.
            usage_ns: what it said.
            began_ns: when it was 0.
        """
        known = self._readings.get(id_)
        now = (timestamp_ns, usage_ns)
        if known is None or known.last[1] > usage_ns or known.last[0] > timestamp_ns:
            began = (min(began_ns, timestamp_ns), 0)
            self._readings[id_] = _Readings(began, now)
            return _rate(began, now)
        if timestamp_ns - known.last[0] >= MIN_INTERVAL_NS:
            known.before, known.last = known.last, now
        return _rate(known.before, now)

    def keep(self, ids: Container[str]) -> None:
        """Forget all others."""
        for id_ in [id_ for id_ in self._readings if id_ not in ids]:
            del self._readings[id_]


def _rate(before: tuple[int, int], now: tuple[int, int]) -> int | None:
    passed_ns = now[0] - before[0]
    return (now[1] - before[1]) * 1_000_000_000 // passed_ns if passed_ns > 0 else None
