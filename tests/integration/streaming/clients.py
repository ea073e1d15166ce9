"""Clients of the streaming server: SPDY/3.1 and WebSocket over real sockets, by the same protocol code."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from shim.streaming import spdy
from shim.streaming import spdy_frames as frames
from shim.streaming.spdy_frames import Reset

CHUNK = 256 * 1024
PATIENCE_S = 60.0  # on a machine that has much else to do


class Refused(Exception):
    def __init__(self, status: int, text: str, headers: dict[str, str]) -> None:
        super().__init__(f"{status} {text}")
        self.status, self.text, self.headers = status, text, headers


class Answer:
    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}


async def request(
    url: str, headers: list[tuple[str, str]], method: str = "POST", tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Answer]:
    """Send a request; return the connection after a 101, else raise Refused."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=tls, server_hostname=parts.hostname if tls else None, limit=CHUNK
    )
    lines = [
        f"{method} {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1",
        f"Host: {parts.netloc}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = Answer(await reader.readuntil(b"\r\n\r\n"))
        if answer.status == 101:
            return reader, writer, answer
        text = (await reader.read()).decode()
    except BaseException:  # cut while it asks
        writer.transport.abort()
        raise
    writer.close()
    raise Refused(answer.status, text, answer.headers)


class Stream:
    """A stream of a SPDY client."""

    def __init__(self, client: SpdyClient, number: int) -> None:
        self.client, self.number = client, number
        self.accepted = asyncio.Event()
        self.changed = asyncio.Event()
        self.parts: list[bytes] = []
        self.ended = self.broken = False

    async def write(self, data: bytes) -> None:
        """Send; as kubectl's library does whatever the windows are, unless the client keeps them."""
        while self.client.keeps_windows and len(data) > (room := self.client.connection.room(self.number)):
            if room:
                self.client.connection.send(self.number, data[:room])
                data = data[room:]
                await self.client.flush()
            else:
                self.client.grown.clear()
                await self.client.grown.wait()
        self.client.connection.send(self.number, data)
        await self.client.flush()

    async def finish(self) -> None:
        self.client.connection.finish(self.number)
        await self.client.flush()

    async def reset(self) -> None:
        self.client.connection.reset(self.number, Reset.CANCEL)
        self.ended = True
        await self.client.flush()

    async def read(self) -> bytes:
        """Return what has come; empty at the end."""
        while not self.parts:
            if self.ended:
                return b""
            self.changed.clear()
            await self.changed.wait()
        data, self.parts = b"".join(self.parts), []
        if self.client.keeps_windows:
            self.client.connection.acknowledge(self.number, len(data))
            await self.client.flush()
        return data

    async def read_until(self, wanted: bytes) -> bytes:
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            while wanted not in found:
                data = await self.read()
                assert data, found
                found += data
        return found

    async def read_all(self) -> bytes:
        return b"".join([data async for data in self.all()])

    async def all(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data


class SpdyClient:
    """A client as kubectl's library is one: it heeds no windows, unless told to keep them."""

    def __init__(self, wire: Any, answer: Answer, *, initial_window: int | None = None) -> None:
        self.wire, self.answer = wire, answer
        self.keeps_windows = initial_window is not None
        self.connection = spdy.Connection(server=False, windows_kept=self.keeps_windows)
        self.streams: dict[int, Stream] = {}
        self.went_away: int | None = None
        self.closed, self.grown = asyncio.Event(), asyncio.Event()
        self.reading = asyncio.ensure_future(self._read())
        if initial_window is not None:
            setting = bytes((0, 0, 0, frames.SETTINGS_INITIAL_WINDOW)) + initial_window.to_bytes(4, "big")
            self.wire.write(frames.control(frames.Type.SETTINGS, b"\0\0\0\1" + setting))

    @property
    def protocol(self) -> str:
        return self.answer.headers.get("x-stream-protocol-version", "")

    async def open(self, **headers: str) -> Stream:
        number = self.connection.open(tuple(headers.items()))
        stream = self.streams[number] = Stream(self, number)
        await self.flush()
        async with asyncio.timeout(PATIENCE_S):
            await stream.accepted.wait()
        return stream

    async def flush(self) -> None:
        self.wire.write(b"".join(self.connection.data_to_send()))
        await self.wire.drain()

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await self.wire.read():
                for event in self.connection.receive_data(data):
                    self._take(event)
                if out := self.connection.data_to_send():
                    self.wire.write(b"".join(out))
        self.closed.set()
        for stream in self.streams.values():
            stream.ended = True
            stream.accepted.set()
            stream.changed.set()

    def _take(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.GoingAway):
            self.went_away = event.status
            return
        if isinstance(event, spdy.Room):
            self.grown.set()
            return
        stream = self.streams.get(event.stream)
        if stream is None:
            return
        if isinstance(event, spdy.Accepted):
            stream.accepted.set()
        elif isinstance(event, spdy.Data):
            stream.parts.append(event.data)
        elif isinstance(event, spdy.Finished | spdy.Broken):
            stream.ended, stream.broken = True, isinstance(event, spdy.Broken)
            stream.accepted.set()
        stream.changed.set()

    async def close(self) -> None:
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
        await self.wire.close()

    def cut(self) -> None:
        """Vanish."""
        self.reading.cancel()
        self.wire.cut()


class Plain:
    """A connection as it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> bytes:
        return await self.reader.read(CHUNK)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def cut(self) -> None:
        self.writer.transport.abort()


class WebSocketClient:
    """Messages; pings are answered."""

    def __init__(self, plain: Plain, answer: Answer) -> None:
        self.plain, self.answer = plain, answer
        self.protocol_events = Connection(ConnectionType.CLIENT)
        self.parts: list[bytes | str] = []
        self.ready: list[bytes | str] = []
        self.close_code: int | None = None
        self.ended = False

    @property
    def protocol(self) -> str:
        return self.answer.headers.get("sec-websocket-protocol", "")

    async def send(self, message: bytes | str) -> None:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        self.plain.write(self.protocol_events.send(kind(data=message)))
        await self.plain.drain()

    async def receive(self) -> bytes | str | None:
        while not self.ready and not self.ended:
            data = await self.plain.read()
            self.protocol_events.receive_data(data or None)
            for event in self.protocol_events.events():
                if isinstance(event, BytesMessage | TextMessage):
                    self.parts.append(event.data)
                    if event.message_finished:
                        empty: Any = "" if isinstance(event, TextMessage) else b""
                        self.ready.append(empty.join(self.parts))
                        self.parts = []
                elif isinstance(event, Ping):
                    self.plain.write(self.protocol_events.send(event.response()))
                elif isinstance(event, CloseConnection):
                    self.ended, self.close_code = True, event.code
                    with contextlib.suppress(Exception):
                        self.plain.write(self.protocol_events.send(event.response()))
        return self.ready.pop(0) if self.ready else None

    async def collect(self) -> dict[int, bytes]:
        """Return everything until the end by channel."""
        channels: dict[int, bytes] = {}
        async with asyncio.timeout(PATIENCE_S):
            while (message := await self.receive()) is not None:
                if isinstance(message, str):
                    number, data = int(message[0]), base64.b64decode(message[1:])
                else:
                    number, data = message[0], bytes(message[1:])
                channels[number] = channels.get(number, b"") + data
        return channels

    async def close(self) -> None:
        await self.plain.close()

    def cut(self) -> None:
        self.plain.cut()


class Tunnel:
    """Bytes in messages."""

    def __init__(self, socket: WebSocketClient) -> None:
        self.socket = socket

    async def read(self) -> bytes:
        message = await self.socket.receive()
        return bytes(message) if isinstance(message, bytes | bytearray) else b""

    def write(self, data: bytes) -> None:
        if data:
            self.socket.plain.write(self.socket.protocol_events.send(BytesMessage(data=data)))

    async def drain(self) -> None:
        await self.socket.plain.drain()

    async def close(self) -> None:
        await self.socket.close()

    def cut(self) -> None:
        self.socket.cut()


async def spdy_client(
    url: str,
    *protocols: str,
    tls: ssl.SSLContext | None = None,
    method: str = "POST",
    initial_window: int | None = None,
) -> SpdyClient:
    headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("Content-Length", "0")]
    headers += [("X-Stream-Protocol-Version", name) for name in protocols]
    reader, writer, answer = await request(url, headers, method, tls)
    return SpdyClient(Plain(reader, writer), answer, initial_window=initial_window)


async def websocket_client(url: str, *protocols: str, tls: ssl.SSLContext | None = None) -> WebSocketClient:
    headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
    ]
    if protocols:
        headers.append(("Sec-WebSocket-Protocol", ", ".join(protocols)))
    reader, writer, answer = await request(url, headers, "GET", tls)
    return WebSocketClient(Plain(reader, writer), answer)


async def tunnel_client(url: str) -> SpdyClient:
    socket = await websocket_client(url, "SPDY/3.1+portforward.k8s.io")
    return SpdyClient(Tunnel(socket), socket.answer)


def status(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found
