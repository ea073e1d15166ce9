"""A streaming client that costs little: SPDY/3.1 over a blocking socket, in frames as kubectl sends them."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

from shim.streaming import spdy, spdy_frames

FRAME = 32 * 1024  # what kubectl and crictl copy at a time
_READ = 1 << 20


class Client:
    """One connection, used by one thread.

    Args:
        url: as the runtime has told it.
        protocol: ``v4.channel.k8s.io`` or ``portforward.k8s.io``.
    """

    def __init__(self, url: str, protocol: str) -> None:
        parts = urlsplit(url)
        self._sock = socket.create_connection((parts.hostname or "", parts.port or 0))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = spdy.Connection(server=False)
        self._buffer = bytearray(_READ)
        self._events: list[spdy.Event] = []
        head = (
            f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 0\r\n"
            f"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        )
        self._sock.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self._sock.recv(4096)
            if not part:
                raise RuntimeError(f"{url}: the runtime has hung up: {answer!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"{url}: {answer!r}")
        self._take(answer.partition(b"\r\n\r\n")[2])

    def open(self, kind: str, **headers: str) -> int:
        """Open a stream and wait for the answer, as kubectl does; return its number."""
        number = self._connection.open((("streamType", kind), *headers.items()))
        self._flush()
        self._until(lambda event: isinstance(event, spdy.Accepted) and event.stream == number)
        return number

    def send(self, number: int, data: bytes | memoryview) -> None:
        """Send one frame."""
        self._sock.sendmsg([spdy_frames.data_header(number, len(data)), data])
        with contextlib.suppress(BlockingIOError):  # windows that were given back, mostly
            self._take(self._sock.recv(65536, socket.MSG_DONTWAIT))

    def finish(self, number: int) -> None:
        """Send the end of a stream."""
        self._connection.finish(number)
        self._flush()

    def receive(self, number: int) -> bytes:
        """Return what comes next on a stream; empty at its end."""
        event = self._until(
            lambda event: (
                isinstance(event, spdy.Data | spdy.Finished | spdy.Broken) and event.stream == number
            )
        )
        return event.data if isinstance(event, spdy.Data) else b""

    def count(self, number: int) -> int:
        """Return how many bytes come on a stream until its end, from now on."""
        total = 0
        while part := len(self.receive(number)):
            total += part
        return total

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _until(self, wanted: object) -> spdy.Event:
        """Return the next event that is wanted; those before are passed over."""
        while True:
            while self._events:
                event = self._events.pop()
                if wanted(event):  # type: ignore[operator]
                    return event
            length = self._sock.recv_into(self._buffer)
            if not length:
                raise RuntimeError("the runtime has hung up")
            self._take(memoryview(self._buffer)[:length])

    def _take(self, data: bytes | memoryview) -> None:
        if data:
            self._events = [*reversed(self._connection.receive_data(data)), *self._events]  # type: ignore[arg-type]
            self._flush()

    def _flush(self) -> None:
        if parts := self._connection.data_to_send():
            self._sock.sendall(b"".join(parts))
