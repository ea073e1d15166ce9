"""Who waits for the end of which process."""

from __future__ import annotations

import asyncio
from typing import Any

from shim.model.container import ExitRecord


async def comes_first(event: asyncio.Future[Any], left: asyncio.Event, deadline: float | None) -> bool:
    """Wait for the first of: an event, the caller's leave, the deadline; tell whether it was the event.

    Args:
        event: what is waited for; it goes on.
        left: set when nobody waits for it any more.
        deadline: in the loop's time; None: there is none.
    """
    leaving = asyncio.ensure_future(left.wait())
    timeout_s = None if deadline is None else max(deadline - asyncio.get_running_loop().time(), 0)
    try:
        await asyncio.wait((event, leaving), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    return event.done()


class Waiters:
    """Futures by process id (container, init or exec), each fulfilled once, with the record of the exit."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[ExitRecord]] = {}

    def expect(self, id_: str) -> asyncio.Future[ExitRecord]:
        """Return the future of an exit. Call it before the process is started, or an early end is missed."""
        future = self._futures.get(id_)
        if future is None:
            future = self._futures[id_] = asyncio.get_running_loop().create_future()
        return future

    def is_expected(self, id_: str) -> bool:
        """Tell whether somebody waits for this exit."""
        return id_ in self._futures

    def tell(self, record: ExitRecord) -> None:
        """Wake who waits for this exit."""
        future = self._futures.pop(record.id, None)
        if future is not None and not future.done():
            future.set_result(record)

    def drop(self, id_: str) -> None:
        """Nobody waits any more: the process was never started, or its waiter has left."""
        future = self._futures.pop(id_, None)
        if future is not None:
            future.cancel()

    def __len__(self) -> int:
        return len(self._futures)
