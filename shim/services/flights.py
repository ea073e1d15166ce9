"""Calls under way, by name: a retry joins the call instead of making a second thing.

A kubelet whose deadline passes gives the call up and asks again with the same name. The first call goes on
without it; the second waits for the same end. So the work runs in a task of its own, never in the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from shim.errors import AlreadyExists

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Flight:
    request: object
    task: asyncio.Task[Any]
    waiters: int = 0


class Flights:
    """The calls under way. One task per key at any time."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def join_or_start(
        self, key: Hashable, request: object, start: Callable[[], Coroutine[Any, Any, T]], *, what: str
    ) -> T:
        """Return what the call under way for ``key`` returns; start it if there is none.

        The call goes on when this caller is cancelled. An error of a call that nobody waits for is logged.

        Args:
            key: the name that may exist once.
            request: compared with that of the call under way.
            start: begins the call.
            what: subject of errors and logs, such as ``sandbox default/web``.

        Raises:
            AlreadyExists: a call with another request is under way for the same name.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(request, asyncio.create_task(start()))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._landed(key, what, task))
        elif flight.request != request:
            raise AlreadyExists(f"{what} is being made just now, with another configuration")
        flight.waiters += 1
        try:
            result: T = await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
        return result

    def _landed(self, key: Hashable, what: str, task: asyncio.Task[Any]) -> None:
        flight = self._flights.pop(key)
        if not task.cancelled() and (error := task.exception()) is not None and not flight.waiters:
            log.warning("%s: the call failed after its caller had left: %s", what, error)

    async def close(self) -> None:
        """Cancel every call under way and wait until each has undone what it did."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
