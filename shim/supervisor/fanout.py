"""Copies one stream of a container to the clients that are attached to it.

A client is the far end of a stream socket. Nobody waits for it: what its socket does not take is kept here,
and a client that lets more than a bound wait is cut off, so one that does not read stops neither the
container nor its log. All clients share the bytes of a chunk.

A flood would cut off every client that is only a little slower than the logger. So the container is read with
pauses while a client is behind, the longer the further: together a fraction of a second until it is cut off,
and one that reads some 20 MB/s never is.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Callable
from typing import Final

from shim.supervisor import loop as loops
from shim.supervisor.loop import WRITABLE, Loop

log = logging.getLogger(__name__)

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
FREE_BYTES: Final = MAX_WAITING_BYTES // 4  # so much is no reason to pause
PAUSE_S_PER_BYTE: Final = 1e-9  # 3 ms for each chunk where the bound is reached
_ONLY_ITS_END: Final = 0  # the kernel tells of errors and hang-ups without being asked


class Fanout:
    """The clients of one stream.

    Args:
        loop: watches their sockets.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._clients: list[Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def pause_s(self) -> float:
        """How long to wait before the next chunk."""
        most = max((client.waiting_bytes for client in self._clients), default=0)
        return max(most - FREE_BYTES, 0) * PAUSE_S_PER_BYTE

    def add(self, fd: int, cut: Callable[[], None]) -> Client:
        """Copy to this socket, from the next chunk on; it is closed here.

        Args:
            fd: the socket.
            cut: closes it, and what else the client has, when it is too far behind.
        """
        os.set_blocking(fd, False)
        client = Client(self._loop, fd, self._clients.remove, cut)
        self._clients.append(client)
        return client

    def feed(self, chunk: bytes) -> None:
        """Copy a chunk to every client."""
        for client in list(self._clients):
            client.feed(chunk)

    def finish(self) -> None:
        """The stream has ended: each client still gets what waits for it, then the end."""
        for client in list(self._clients):
            client.finish()


class Client:
    """One socket. Lives as long as the loop watches it."""

    __slots__ = ("_cut", "_fd", "_finished", "_loop", "_on_close", "_waiting", "waiting_bytes")

    def __init__(
        self, loop: Loop, fd: int, on_close: Callable[[Client], None], cut: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._on_close = on_close
        self._cut = cut
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._finished = False
        self.waiting_bytes = 0
        loop.watch(fd, _ONLY_ITS_END, self._ready)

    def feed(self, chunk: bytes) -> None:
        """Send a chunk, or keep what does not go through now."""
        rest = memoryview(chunk)
        if not self._waiting:
            rest = self._write(rest)
            if not rest or self._fd < 0:
                return
            self._loop.watch(self._fd, WRITABLE, self._ready)
        self._waiting.append(rest)
        self.waiting_bytes += len(rest)
        if self.waiting_bytes > MAX_WAITING_BYTES:
            log.warning("an attached client is %d bytes behind: it is cut off", self.waiting_bytes)
            self._cut()

    def finish(self) -> None:
        """Close once nothing waits any more."""
        self._finished = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._fd < 0:
            return
        loops.close(self._loop, self._fd)
        self._fd = -1
        self._cut = _nothing  # which leads back here, and the logger collects no such circles
        self._waiting.clear()
        self.waiting_bytes = 0
        self._on_close(self)

    def _ready(self, events: int) -> None:
        if events & ~WRITABLE:
            self.close()
            return
        while self._waiting:
            rest = self._write(self._waiting[0])
            if self._fd < 0:
                return
            self.waiting_bytes -= len(self._waiting[0]) - len(rest)
            if rest:
                self._waiting[0] = rest
                return
            self._waiting.popleft()
        if self._finished:
            self.close()
        else:
            self._loop.watch(self._fd, _ONLY_ITS_END, self._ready)

    def _write(self, data: memoryview) -> memoryview:
        """Write what goes; return what does not. Closes where the client is gone."""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError:
            self.close()
        return data


def _nothing() -> None:
    """There is nothing to be closed any more."""
