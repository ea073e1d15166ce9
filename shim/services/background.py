"""Work that no caller waits for: tasks with an owner, and retries that slow down."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 300.0


def next_delay(delay_s: float) -> float:
    """Return the pause after one of ``delay_s`` seconds; 0 begins."""
    return min(delay_s * 2, LONGEST_DELAY_S) if delay_s else FIRST_DELAY_S


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that has failed and is going to be tried again.

    Attributes:
        failures: since it was begun, at least one.
        delay_s: pause before the next try.
        error: of the last try; empty where it only told that it is not done.
    """

    failures: int
    delay_s: float
    error: str


class Background:
    """The tasks of a node that outlive the call that began them."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retries: dict[str, asyncio.Task[Any]] = {}
        self._waiting: dict[str, Waiting] = {}
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
        task.add_done_callback(lambda _: self._forget(what))

    def waiting(self) -> Mapping[str, Waiting]:
        """Return what has failed and is tried again, by its subject."""
        return self._waiting

    def _forget(self, what: str) -> None:
        self._retries.pop(what, None)
        self._waiting.pop(what, None)

    async def _keep_trying(self, work: Callable[[], Awaitable[bool]], what: str) -> None:
        delay_s, text = 0.0, ""
        for failures in itertools.count(1):
            delay_s = next_delay(delay_s)
            self._waiting[what] = Waiting(failures, delay_s, text)
            await self._sleep(delay_s)
            try:
                if await work():
                    return
                text = ""
            except Exception as error:
                text = str(error) or type(error).__name__
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
