"""Bytes and messages of one client: TCP as it is, WebSocket messages, bytes in WebSocket messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

CHUNK: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 1024 * 1024
_LINGER_S: Final = 5.0


class Wire(Protocol):
    """A stream of bytes in each direction."""

    async def read(self) -> bytes:
        """Return what comes next; empty at the end."""

    async def write(self, parts: Sequence[bytes]) -> None:
        """Send all parts; return when there is room for more. ConnectionError once the client is gone."""


class Tcp:
    """A connection as asyncio has it, with or without TLS.

    Args:
        reader, writer: both ends of it.
        first: bytes that were read already.
        active: called whenever something moves.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bytes = b"",
        active: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader, self._writer, self._first, self._active = reader, writer, first, active

    async def read(self) -> bytes:
        """Return what comes next; empty at the end, also at one without ceremony."""
        data, self._first = self._first, b""
        if not data:
            try:
                data = await self._reader.read(CHUNK)
            except ConnectionError:
                return b""
        self._active()
        return data

    async def write(self, parts: Sequence[bytes]) -> None:
        """Send all parts; return when there is room for more."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client is gone")
        self._writer.writelines(parts)
        await self._writer.drain()
        self._active()

    async def finish(self) -> None:
        """Send no more, and take in what still comes: unread bytes would reset the connection."""
        with contextlib.suppress(ConnectionError, TimeoutError, OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                while await self._reader.read(CHUNK):
                    pass


class WebSocket:
    """Messages; pings are answered, and a close is too."""

    def __init__(self, tcp: Tcp) -> None:
        self._tcp = tcp
        self._protocol = Connection(ConnectionType.SERVER)
        self._parts: list[bytes | str] = []
        self._length = 0
        self._ready: list[bytes | str] = []
        self._ended = False

    async def receive(self) -> bytes | str | None:
        """Return the next message; None at the end.

        Raises:
            ValueError: the client does not speak WebSocket, or a message is too long.
        """
        while not self._ready and not self._ended:
            data = await self._tcp.read()
            try:
                self._protocol.receive_data(data or None)
                await self._take_in()
            except RemoteProtocolError as error:
                await self.close(CloseReason.PROTOCOL_ERROR, str(error))
                raise ValueError(f"not a WebSocket message: {error}") from None
        return self._ready.pop(0) if self._ready else None

    async def _take_in(self) -> None:
        for event in self._protocol.events():
            if isinstance(event, BytesMessage | TextMessage):
                await self._part(event)
            elif isinstance(event, Ping):
                await self._tcp.write([self._protocol.send(event.response())])
            elif isinstance(event, CloseConnection):
                self._ended = True
                with contextlib.suppress(ConnectionError, LocalProtocolError):
                    await self._tcp.write([self._protocol.send(event.response())])

    async def _part(self, event: BytesMessage | TextMessage) -> None:
        data = event.data if isinstance(event, TextMessage) else bytes(event.data)
        self._length += len(data)
        if self._length > MAX_MESSAGE_BYTES:
            await self.close(CloseReason.MESSAGE_TOO_BIG, f"at most {MAX_MESSAGE_BYTES} bytes")
            raise ValueError(f"a message is longer than {MAX_MESSAGE_BYTES} bytes")
        self._parts.append(data)
        if event.message_finished:
            self._ready.append(_joined(self._parts))
            self._parts, self._length = [], 0

    async def send(self, message: bytes | str) -> None:
        """Send a message."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        try:
            await self._tcp.write([self._protocol.send(event)])
        except LocalProtocolError:
            raise ConnectionResetError("the client has closed the WebSocket") from None

    async def close(self, code: CloseReason = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say that it is over. Idempotent."""
        self._ended = True
        with contextlib.suppress(ConnectionError, LocalProtocolError):
            await self._tcp.write([self._protocol.send(CloseConnection(code=code, reason=reason[:100]))])


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
        raise ValueError("a text message in a tunnel of bytes")

    async def write(self, parts: Sequence[bytes]) -> None:
        """Send all parts in one message."""
        await self._socket.send(b"".join(parts))
