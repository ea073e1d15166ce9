"""What a child tells the daemon until its program runs (``runtime.wire``), read in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from shim.kernel import unix
from shim.runtime import wire


class Messages:
    """Reads a sync socket to its end.

    Args:
        fd: the socket.
        watch: called when something begins that may take for ever, and when it is over.
        go: done when a child that waits may go on, cancelled when it is to end; None: it does not wait.

    Attributes:
        fds: descriptors that came up, by name; the caller's once ``end`` has returned.
        warnings: in the order in which they came.
        doing: what it does that may take for ever; empty for nothing.
    """

    def __init__(
        self, fd: int, watch: Callable[[bool], None], go: asyncio.Future[None] | None = None
    ) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._error: Exception | None = None
        self.fds: dict[str, int] = {}
        self.warnings: list[str] = []
        self.doing = ""
        self._watch = watch
        self._go = go
        self._loop.add_reader(self._sock.fileno(), self._readable)

    async def end(self) -> None:
        """Wait until the child has let go of its end.

        Raises:
            Exception: what the child raised, of the same class.
        """
        await self._ended
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Read no more, and close what came up. Idempotent."""
        self._stop()
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def _stop(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if not self._ended.done():
            self._ended.set_result(None)

    def _readable(self) -> None:
        while True:
            try:
                data, fds = unix.recv_message(self._sock)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                data, fds = b"", []
            if not data:
                self._stop()
                return
            try:
                self._take(wire.decode(data), fds)
            except Exception as error:  # a child of ours spoke: whatever is wrong with it fails the start
                self._error = self._error or error
                self._stop()
                return

    def _take(self, message: dict[str, object], fds: list[int]) -> None:
        match message:
            case {"type": "fds", "names": list(names)}:
                self.fds.update(zip(map(str, names), fds, strict=True))
                return
            case {"type": "warning", "message": text}:
                self.warnings.append(str(text))
            case {"type": "doing", "what": what}:
                self.doing = str(what)
                self._watch(bool(what))
            case {"type": "held"} if self._go is not None:
                self._go.add_done_callback(self._let_go)
            case {"type": "error"}:
                self._error = self._error or wire.decode_error(message)
        for fd in fds:
            os.close(fd)

    def _let_go(self, go: asyncio.Future[None]) -> None:
        if self._sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):  # it has died: its end is told otherwise
            if go.cancelled():
                self._sock.shutdown(socket.SHUT_WR)
            else:
                self._sock.send(b"g")
