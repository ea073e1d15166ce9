"""Bytes and messages of one client: TCP as it is, WebSocket messages, bytes in WebSocket messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

CHUNK: Final = 256 * 1024
_LINGER_S: Final = 5.0


class Wire(Protocol):
    """A stream of bytes in each direction."""

    async def read(self) -> bytes:
        """Return what comes next; empty at the end."""

    def push(self, parts: Sequence[bytes]) -> None:
        """Send all parts, now or later. ConnectionError once the client is gone."""

    async def drain(self) -> None:
        """Wait until there is room for more. ConnectionError once the client is gone."""


class Tcp:
    """A connection as asyncio has it, with or without TLS.

    Attributes:
        active: called whenever something moves.

    Args:
        reader, writer: both ends of it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.active: Callable[[], None] | None = None
        self._reader, self._writer, self._first = reader, writer, b""

    def put_back(self, data: bytes) -> None:
        """Let ``data``, which was read too early, be what is read next."""
        self._first = data

    async def read(self) -> bytes:
        """Return what comes next; empty at the end, also at one without ceremony."""
        data, self._first = self._first, b""
        if not data:
            try:
                data = await self._reader.read(CHUNK)
            except ConnectionError:
                return b""
        if self.active is not None:
            self.active()
        return data

    def push(self, parts: Sequence[bytes]) -> None:
        """Send all parts, now or later."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client is gone")
        self._writer.writelines(parts)

    async def drain(self) -> None:
        """Wait until there is room for more."""
        await self._writer.drain()
        if self.active is not None:
            self.active()

    async def flush(self) -> None:
        """Wait until the kernel has all that was pushed, however slow the client is; drop what comes.

        Raises:
            ConnectionError: the client is gone.
        """
        dropping = asyncio.ensure_future(self._drop())  # a client that still writes gets to read, too
        try:
            self._writer.transport.set_write_buffer_limits(0)
            await self._writer.drain()
        finally:
            dropping.cancel()
            await asyncio.gather(dropping, return_exceptions=True)

    async def finish(self) -> None:
        """Send no more, and read to the end: a reset by unread bytes would cost the client what was sent."""
        with contextlib.suppress(ConnectionError, TimeoutError, OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                await self._drop()

    async def _drop(self) -> None:
        while await self._reader.read(CHUNK):
            pass


class WebSocket:
    """Messages; pings are answered, and a close is too.

    Args:
        tcp: below.
        max_bytes: of a message.
    """

    def __init__(self, tcp: Tcp, max_bytes: int) -> None:
        self._tcp = tcp
        self._max_bytes = max_bytes
        self._protocol = Connection(ConnectionType.SERVER)
        self._parts: list[bytes | str] = []
        self._length = 0
        self._ready: deque[bytes | str] = deque()
        self._ended = False

    async def receive(self) -> bytes | str | None:
        """Return the next message; None at the end.

        Raises:
            ValueError: the client does not speak WebSocket, or a message is too long; it was told so.
        """
        while not self._ready and not self._ended:
            data = await self._tcp.read()
            try:
                self._protocol.receive_data(data or None)
                answered = self._take_in()
            except RemoteProtocolError as error:
                self.close(CloseReason.PROTOCOL_ERROR, str(error))
                raise ValueError(f"not a WebSocket message: {error}") from None
            if answered:
                await self.drain()
        return self._ready.popleft() if self._ready else None

    def _take_in(self) -> bool:
        """Return whether something was answered."""
        answered = False
        for event in self._protocol.events():
            if isinstance(event, BytesMessage | TextMessage):
                self._part(event)
            elif isinstance(event, Ping):
                answered = True
                self._tcp.push([self._protocol.send(event.response())])
            elif isinstance(event, CloseConnection):
                self._ended = True
                with contextlib.suppress(ConnectionError, LocalProtocolError):
                    self._tcp.push([self._protocol.send(event.response())])
        return answered

    def _part(self, event: BytesMessage | TextMessage) -> None:
        data = event.data if isinstance(event, TextMessage) else bytes(event.data)
        self._length += len(data)
        if self._length > self._max_bytes:
            self.close(CloseReason.MESSAGE_TOO_BIG, f"at most {self._max_bytes} bytes")
            raise ValueError(f"a message is longer than {self._max_bytes} bytes")
        self._parts.append(data)
        if event.message_finished:
            self._ready.append(_joined(self._parts))
            self._parts, self._length = [], 0

    def push(self, message: bytes | str) -> None:
        """Send a message, now or later."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        try:
            self._tcp.push([self._protocol.send(event)])
        except LocalProtocolError:
            raise ConnectionResetError("the client has closed the WebSocket") from None

    async def drain(self) -> None:
        """Wait until there is room for more."""
        await self._tcp.drain()

    def ping(self) -> None:
        """Send what a client has to answer."""
        with contextlib.suppress(LocalProtocolError):
            self._tcp.push([self._protocol.send(Ping())])

    def close(self, code: CloseReason = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say that it is over. Idempotent."""
        self._ended = True
        with contextlib.suppress(ConnectionError, LocalProtocolError):
            self._tcp.push([self._protocol.send(CloseConnection(code=code, reason=reason[:100]))])


def _joined(parts: list[bytes | str]) -> bytes | str:
    text = [part for part in parts if isinstance(part, str)]
    return "".join(text) if text else b"".join(part for part in parts if isinstance(part, bytes))


class Tunnel:
    """Bytes in the messages of a WebSocket, wherever one ends."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        """Return what comes next; empty at the end."""
        message: bytes | str | None = b""
        while message == b"":
            message = await self._socket.receive()
        if message is None or isinstance(message, bytes):
            return message or b""
        self._socket.close(CloseReason.UNSUPPORTED_DATA, "only binary messages")
        raise ValueError("a text message in a tunnel of bytes")

    def push(self, parts: Sequence[bytes]) -> None:
        """Send all parts in one message, now or later."""
        self._socket.push(b"".join(parts))

    async def drain(self) -> None:
        """Wait until there is room for more."""
        await self._socket.drain()
