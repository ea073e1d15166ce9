"""Work for one sandbox each that is tried again with growing pauses until it succeeds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from shim.errors import ShimError

log = logging.getLogger(__name__)

LONGEST_DELAY_S: Final = 300.0
_AT_ONCE: Final = 4


def delay_after(tries: int) -> float:
    """Return the pause, in seconds, after so many tries that failed: 1, 2, 4 and so on."""
    return min(2.0 ** min(tries - 1, 20), LONGEST_DELAY_S) if tries else 0.0


class Retries:
    """What is being tried again.

    Args:
        work: what to do, by sandbox; it fails with ShimError or OSError.
        sleep: for tests.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._work = work
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._first: dict[str, asyncio.Event] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.next_ns: dict[str, int] = {}

    def start(self, sandbox_id: str, tries: int = 0) -> None:
        """Begin, after the pause that follows so many tries; once at a time for a sandbox."""
        if sandbox_id in self._tasks:
            return
        self._first[sandbox_id] = asyncio.Event()
        task = asyncio.create_task(self._keep_trying(sandbox_id, tries), name=f"CNI DEL of {sandbox_id}")
        self._tasks[sandbox_id] = task
        task.add_done_callback(lambda task: self._ended(sandbox_id, task))

    async def first_tries(self, ids: Iterable[str], patience_s: float) -> None:
        """Wait until each was tried once, but not longer than ``patience_s``."""
        events = [self._first[each] for each in ids if each in self._first]
        if events:
            waiting = [asyncio.ensure_future(event.wait()) for event in events]
            _, late = await asyncio.wait(waiting, timeout=patience_s)
            for task in late:
                task.cancel()

    async def close(self) -> None:
        """Stop trying."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_trying(self, sandbox_id: str, tries: int) -> None:
        while True:
            if delay_s := delay_after(tries):
                self.next_ns[sandbox_id] = time.time_ns() + int(delay_s * 1e9)
                await self._sleep(delay_s)
            try:
                async with self._slots:
                    await self._work(sandbox_id)
            except (ShimError, OSError) as error:
                tries += 1
                log.warning(
                    "network of sandbox %s is not taken back, next try in %.0f s: %s",
                    *(sandbox_id, delay_after(tries), error),
                )
                self._first[sandbox_id].set()
            else:
                return

    def _ended(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        self._first.pop(sandbox_id).set()
        self._tasks.pop(sandbox_id, None)
        self.next_ns.pop(sandbox_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error)
