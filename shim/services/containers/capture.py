"""The output of an exec: two pipes read in the event loop, into a bounded amount of memory.

What goes beyond the bound is read and dropped, so that the program never blocks on a full pipe and sees
nothing of it. No thread waits: the descriptors are non-blocking and watched by the loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

_CHUNK: Final = 64 * 1024
_READS_IN_A_ROW: Final = 16  # then the loop serves others: a flood shares the daemon fairly


class Capture:
    """Reads descriptors until each has ended, or until told to stop. Owns them.

    Args:
        fds: read ends by name, such as ``{"stdout": 7, "stderr": 9}``.
        limit_bytes: how much is kept of all of them together.
    """

    def __init__(self, fds: dict[str, int], limit_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: dict[str, list[bytes]] = {name: [] for name in fds}
        self._open = dict(fds)
        self._room = limit_bytes
        self._ended = asyncio.Event()
        self.dropped_bytes = 0
        if not fds:
            self._ended.set()
        for name, fd in fds.items():
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._readable, name, fd)

    async def ended(self) -> None:
        """Wait until every writer of every pipe is gone."""
        await self._ended.wait()

    async def finish(self, drain_s: float) -> None:
        """Take what is in the pipes, waiting at most ``drain_s`` for writers that stay, and close them.

        A child in the background that keeps the pipe open loses its output from here on.
        """
        try:
            async with asyncio.timeout(drain_s):
                await self.ended()
        except TimeoutError:
            for name, fd in list(self._open.items()):
                self._readable(name, fd)
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading. Idempotent."""
        for name in list(self._open):
            self._close(name)

    def output(self, name: str) -> bytes:
        """Return what was kept of one pipe."""
        return b"".join(self._chunks.get(name, ()))

    def _readable(self, name: str, fd: int) -> None:
        for _ in range(_READS_IN_A_ROW):
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError:  # EIO: the other end of a terminal is gone
                data = b""
            if not data:
                self._close(name)
                return
            kept = data[: self._room]
            self._room -= len(kept)
            self.dropped_bytes += len(data) - len(kept)
            if kept:
                self._chunks[name].append(kept)

    def _close(self, name: str) -> None:
        fd = self._open.pop(name)
        self._loop.remove_reader(fd)
        os.close(fd)
        if not self._open:
            self._ended.set()
