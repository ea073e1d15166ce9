"""What has come for one channel and was not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# What one channel may hold before its connection is read no further: a client that ignores windows would
# fill the memory otherwise.
MOST_BYTES: Final = 1024 * 1024


class Inbox:
    """A queue of bytes with an end.

    Args:
        used: called with the number of bytes that were taken out.
    """

    def __init__(self, used: Callable[[int], None] = lambda _: None) -> None:
        self._parts: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._used = used
        self._ended = self._broken = False
        self._ignored = False
        self.waiting_bytes = 0

    def put(self, data: bytes) -> None:
        """Add what has come."""
        if self._ignored or self._broken:
            self._used(len(data))
            return
        self._parts.append(data)
        self.waiting_bytes += len(data)
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
        self._parts.clear()
        dropped, self.waiting_bytes = self.waiting_bytes, 0
        self._used(dropped)

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
        self._parts.clear()
        self.waiting_bytes = 0
        self._used(len(data))
        return data
