"""A connection that never blocks the supervisor: packets with descriptors, in and out."""

from __future__ import annotations

import collections
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shim.kernel import unix
from shim.supervisor import fdstore
from shim.supervisor.loop import READABLE, WRITABLE, Loop
from shim.supervisor.protocol import MAX_BYTES, MAX_FDS, Message, ProtocolError, decode, encode

MAX_WAITING: Final = 4096
_PACKETS_IN_A_ROW: Final = 16

OnMessage = Callable[[Message, dict[str, int]], None]


class Packets:
    """One SOCK_SEQPACKET connection in a Loop. Owns the socket.

    Args:
        loop: watches it.
        sock: connected.
        on_message: called with each message and its descriptors by name, which belong to the callee.
        on_end: called once, when the peer is gone, sent rubbish, or does not take what is sent.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, on_message: OnMessage, on_end: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._waiting: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self._open = True
        loop.watch(sock.fileno(), READABLE, self._ready)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send now or as soon as the peer takes it; descriptors stay the caller's.

        A peer that lets too much wait is given up.
        """
        if not self._open:
            return
        data = encode(message)
        if not self._waiting:
            try:
                unix.send_message(self._sock, data, fds)
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            else:
                return
        if len(self._waiting) >= MAX_WAITING:
            self.close()
            return
        self._waiting.append((data, [os.dup(fd) for fd in fds]))
        self._loop.watch(self.fileno(), READABLE | WRITABLE, self._ready)

    def close(self) -> None:
        """End the connection. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.unwatch(self.fileno())
        self._sock.close()
        for _, fds in self._waiting:
            fdstore.close_all(fds)
        self._waiting.clear()
        self._on_end()

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if self._open and events & ~WRITABLE:
            self._receive()

    def _flush(self) -> None:
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                unix.send_message(self._sock, data, fds)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._waiting.popleft()
            fdstore.close_all(fds)
        self._loop.watch(self.fileno(), READABLE, self._ready)

    def _receive(self) -> None:
        for _ in range(_PACKETS_IN_A_ROW):
            try:
                data, fds = unix.recv_message(self._sock, MAX_BYTES, MAX_FDS)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                self.close()
                return
            if not data:
                fdstore.close_all(fds)
                self.close()
                return
            try:
                message = decode(data)
                named = fdstore.pair(names_of(message), fds)
            except (ProtocolError, ValueError):
                self.close()
                return
            self._on_message(message, named)
            if not self._open:
                return


def names_of(message: Message) -> tuple[str, ...]:
    """Return the names of the descriptors that travel with a message."""
    return getattr(message, "names", ())


def split(fds: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return descriptors as (names, numbers), in one order."""
    return tuple(fds), tuple(fds.values())
