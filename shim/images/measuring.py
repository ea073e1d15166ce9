"""Measuring writable layers in the background: each every ten seconds, or more seldom the longer it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from shim.images.snapshots import Snapshots
from shim.threads import Pool

_TURN_S: Final = 1.0
_EVERY_S: Final = 10.0
_AT_ONCE: Final = 32  # layers for each time that others get the thread
_SHARE: Final = 100  # of a thread's time, at most a hundredth goes into one layer


class Measurer:
    """Walks writable layers, one after the other.

    Args:
        snapshots: which there are.
        threads: where walking happens.
    """

    def __init__(self, snapshots: Snapshots, threads: Pool) -> None:
        self._snapshots = snapshots
        self._threads = threads
        self._due: dict[str, float] = {}

    async def run_forever(self) -> None:
        """Measure what is due, until cancelled."""
        while True:
            ids = self._snapshots.list()
            self._due = {id_: self._due.get(id_, 0.0) for id_ in ids}
            due = [id_ for id_ in ids if self._due[id_] <= time.monotonic()]
            for begin in range(0, len(due), _AT_ONCE):
                await self._threads.run(self._measure, due[begin : begin + _AT_ONCE])
            await asyncio.sleep(_TURN_S)

    def _measure(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            began = time.monotonic()
            self._snapshots.measure(id_)
            self._due[id_] = next_due(began, time.monotonic())


def next_due(began: float, ended: float) -> float:
    """Return when a layer is to be measured again, after a walk from ``began`` to ``ended``. Pure."""
    return ended + max(_EVERY_S, (ended - began) * _SHARE)
