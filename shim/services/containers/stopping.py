"""One stop of one container: a signal, a grace period that later calls may shorten, then the end.

Any number of calls share one `Stopping`. It runs in a task of its own, so it goes on when callers leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_KILL_AGAIN_S: Final = 2.0  # where a cgroup cannot be killed at one stroke, a fork may slip through


class Stopping:
    """A stop under way.

    Args:
        send_signal: send the stop signal; called once, and not at all if there is no grace.
        kill: kill everything in the container at once.
        exited: wait until the container's exit is recorded.
        timeout_s: grace of the first call in seconds; 0 or less is none.

    Attributes:
        timeout_s: grace of the first call, 0 is none.
        killed: whether the grace is over and it was killed.
    """

    def __init__(
        self,
        send_signal: Callable[[], Awaitable[None]],
        kill: Callable[[], Awaitable[None]],
        exited: Callable[[], Awaitable[object]],
        timeout_s: float,
    ) -> None:
        self._send_signal = send_signal
        self._kill = kill
        self._exited = exited
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + max(timeout_s, 0.0)
        self.timeout_s = max(timeout_s, 0.0)
        self._shortened = asyncio.Event()
        self.killed = False

    def shorten(self, timeout_s: float) -> None:
        """Bring the end forward, where ``timeout_s`` from now is earlier than what was planned."""
        deadline = self._loop.time() + max(timeout_s, 0.0)
        if deadline < self._deadline:
            self._deadline = deadline
            self._shortened.set()

    async def run(self) -> None:
        """Stop the container; return when its exit is recorded."""
        exited = asyncio.ensure_future(self._exited())
        try:
            if self.timeout_s:
                await self._send_signal()
                await self._wait_for_grace(exited)
            while not exited.done():
                self.killed = True
                await self._kill()
                await asyncio.wait((exited,), timeout=_KILL_AGAIN_S)
            await exited
        finally:
            exited.cancel()

    async def _wait_for_grace(self, exited: asyncio.Future[object]) -> None:
        while not exited.done() and (left_s := self._deadline - self._loop.time()) > 0:
            self._shortened.clear()
            change = asyncio.ensure_future(self._shortened.wait())
            try:
                await asyncio.wait((exited, change), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
