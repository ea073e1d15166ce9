"""Work that no caller waits for: tasks with an owner, and retries that slow down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 300.0


def next_delay(delay_s: float) -> float:
    """Return the pause after one of ``delay_s`` seconds; 0 begins."""
    return min(delay_s * 2, LONGEST_DELAY_S) if delay_s else FIRST_DELAY_S


class Background:
    """The tasks of a node that outlive the call that began them."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retries: dict[str, asyncio.Task[Any]] = {}
        self._sleep = sleep

    def start(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work``; its error is logged with ``what`` as subject."""
        _ = self.task(what, work)

    def task(self, what: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` as ``start`` does; return its task, for those who want to wait for it as well."""
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def retry(self, what: str, work: Callable[[], Awaitable[bool]]) -> None:
        """Call ``work`` after growing pauses until it returns True; once at a time for ``what``."""
        if what in self._retries:
            return
        task = self.task(what, self._keep_trying(work, what))
        self._retries[what] = task
        task.add_done_callback(lambda _: self._retries.pop(what, None))

    async def _keep_trying(self, work: Callable[[], Awaitable[bool]], what: str) -> None:
        delay_s = 0.0
        while True:
            delay_s = next_delay(delay_s)
            await self._sleep(delay_s)
            try:
                if await work():
                    return
            except Exception as error:
                log.warning("%s: failed again, next try in %.0f s: %s", what, next_delay(delay_s), error)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error)

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
