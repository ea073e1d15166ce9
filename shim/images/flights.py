"""Single flight: however many callers want the same thing at once, it is done once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    callers: int = 0


class Flights(Generic[T]):
    """Calls under way, by key. One that goes away does not stop the others; the last one does."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    def is_flying(self, key: str) -> bool:
        """Tell whether a call for ``key`` is under way, so that ``join`` would share it."""
        return key in self._flights

    def callers(self, key: str) -> int:
        """Return how many wait for the call for ``key``."""
        return self._flights[key].callers if key in self._flights else 0

    async def join(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the call for ``key`` under way returns, or make it with ``start``."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(start()))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if flight.task.done() or not flight.callers:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                await stop(flight.task)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; a caller that is cancelled meanwhile goes only when it is done.

    For what a thread does to files that the caller would clean up: never both at once.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what counts
        raise


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task that nobody waits for and let it clean up, though the caller is being cancelled."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at: nobody else will
