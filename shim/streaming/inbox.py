"""What has come for the channels of a connection and was not read yet."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

# What one channel, and all of a connection, may hold before the connection is read no further: a client that
# ignores windows would fill the memory otherwise.
MOST_BYTES: Final = 1024 * 1024
MOST_BYTES_OF_ALL: Final = 8 * 1024 * 1024
_PROBE_S: Final = 2.0


class Intake:
    """What the inboxes of one connection hold together."""

    def __init__(self) -> None:
        self._held = self._full = 0
        self._less = asyncio.Event()

    @property
    def crowded(self) -> bool:
        """Whether nothing more should be read."""
        return self._full > 0 or self._held > MOST_BYTES_OF_ALL

    def change(self, before: int, after: int) -> None:
        """Take note that one inbox holds ``after`` bytes now."""
        self._held += after - before
        self._full += (after > MOST_BYTES) - (before > MOST_BYTES)
        if after < before:
            self._less.set()

    async def room(self, probe: Callable[[], None]) -> None:
        """Wait until more should be read.

        Args:
            probe: called now and then meanwhile; it sends something. Whoever does not read does not see that
                the client has hung up, since that comes after what it has sent; but a client that is gone
                answers what it is sent with a reset, and then sending fails.

        Raises:
            ConnectionError: what ``probe`` raises.
        """
        while self.crowded:
            self._less.clear()
            try:
                async with asyncio.timeout(_PROBE_S):
                    await self._less.wait()
            except TimeoutError:
                probe()


class Inbox:
    """A queue of bytes with an end.

    Args:
        intake: of the connection.
        used: called with the number of bytes that were taken out.
    """

    def __init__(self, intake: Intake, used: Callable[[int], None] = lambda _: None) -> None:
        self._parts: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._intake, self._used = intake, used
        self._ended = self._broken = False
        self._ignored = False
        self._held = 0
        self._moved_at = 0.0

    @property
    def still_s(self) -> float:
        """For how long nothing was taken out, although it is full; else 0."""
        return time.monotonic() - self._moved_at if self._held > MOST_BYTES else 0.0

    def put(self, data: bytes) -> None:
        """Add what has come."""
        if self._ignored:
            self._used(len(data))
            return
        if not self._held:
            self._moved_at = time.monotonic()
        self._parts.append(data)
        self._hold(self._held + len(data))
        self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    def break_off(self) -> None:
        """Nothing more comes, and what came is void."""
        self._broken = True
        self.ignore()
        self._changed.set()

    def ignore(self) -> None:
        """Drop what is here and what will come: nobody reads it."""
        self._ignored = True
        self._empty()

    async def take(self) -> bytes:
        """Return what is here, as one; empty at the end.

        Raises:
            ConnectionError: it was broken off.
        """
        while not self._parts:
            if self._broken:
                raise ConnectionResetError("the client has broken it off")
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._empty()
        return data

    def _empty(self) -> None:
        self._parts.clear()
        used = self._held
        if used:
            self._hold(0)
            self._used(used)

    def _hold(self, count: int) -> None:
        before, self._held = self._held, count
        self._intake.change(before, count)
