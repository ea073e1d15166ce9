"""Channels over SPDY/3.1: the one place that joins ``spdy.Connection`` and a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shim.streaming import spdy
from shim.streaming.inbox import MOST_BYTES, Inbox
from shim.streaming.spdy_frames import Headers, Reset
from shim.streaming.wire import Wire

_ACKNOWLEDGE_BYTES: Final = 32 * 1024


class SpdyChannel:
    """One stream, with the headers that opened it."""

    def __init__(self, mux: SpdyChannels, number: int, headers: Headers) -> None:
        self.number = number
        self.headers = dict(headers)
        self.inbox = Inbox(self._used)
        self.broken = False
        self._mux = mux
        self._unacknowledged = 0

    async def read(self) -> bytes:
        """Return what comes next; empty at the end."""
        return await self.inbox.take()

    async def write(self, data: bytes) -> None:
        """Send, in pieces as the client has room."""
        while data:
            room = await self._mux.room(self)
            piece, data = (data, b"") if room >= len(data) else (data[:room], data[room:])
            await self._mux.send(self.number, piece)

    async def finish(self) -> None:
        """Tell the client that nothing more comes. Idempotent."""
        if not self.broken:
            self._mux.connection.finish(self.number)
            await self._mux.flush()

    async def refuse(self) -> None:
        """Break it off: it is not what was agreed on."""
        self._mux.connection.reset(self.number, Reset.REFUSED_STREAM)
        await self._mux.flush()

    def _used(self, count: int) -> None:
        self._unacknowledged += count
        if self._unacknowledged >= _ACKNOWLEDGE_BYTES:
            self._mux.acknowledge(self.number, self._unacknowledged)
            self._unacknowledged = 0


class SpdyChannels:
    """All channels of one client.

    Args:
        wire: to and from it.
        opened: called with each channel that the client opens; it is answered already.
    """

    def __init__(self, wire: Wire, opened: Callable[[SpdyChannel], None]) -> None:
        self.connection = spdy.Connection(server=True)
        self._wire = wire
        self._opened = opened
        self._channels: dict[int, SpdyChannel] = {}
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Read until the client is gone; then every channel is broken off.

        Raises:
            ValueError: it does not speak SPDY/3.1.
        """
        try:
            while data := await self._wire.read():
                for event in self.connection.receive_data(data):
                    self._take_in(event)
                await self.flush()
                await self._have_room()
        finally:
            for channel in list(self._channels.values()):
                self._break(channel)

    def ignore(self) -> None:
        """Drop whatever still comes."""
        for channel in self._channels.values():
            channel.inbox.ignore()

    async def flush(self) -> None:
        """Send what the protocol has ready."""
        parts = self.connection.data_to_send()
        if parts:
            await self._wire.write(parts)

    async def send(self, number: int, data: bytes) -> None:
        """Send a piece for which there is room."""
        self.connection.send(number, data)
        await self.flush()

    async def room(self, channel: SpdyChannel) -> int:
        """Wait until something can be sent; return how much."""
        while not channel.broken:
            room = self.connection.room(channel.number)
            if room:
                return room
            self._moved.clear()
            await self._moved.wait()
        raise ConnectionResetError("the client has broken it off")

    def acknowledge(self, number: int, count: int) -> None:
        """Give room back; it is sent with what is sent next, at the latest with the next read."""
        self.connection.acknowledge(number, count)
        self._moved.set()

    def _take_in(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened(number, headers):
                channel = self._channels[number] = SpdyChannel(self, number, headers)
                self.connection.accept(number)
                self._opened(channel)
            case spdy.Data(number, data):
                self._channels[number].inbox.put(data)
            case spdy.Finished(number):
                self._channels[number].inbox.end()
            case spdy.Broken(number, _):
                self._break(self._channels[number])
            case spdy.Room():
                self._moved.set()

    def _break(self, channel: SpdyChannel) -> None:
        channel.broken = True
        self._channels.pop(channel.number, None)
        channel.inbox.break_off()
        self._moved.set()

    async def _have_room(self) -> None:
        while any(channel.inbox.waiting_bytes > MOST_BYTES for channel in self._channels.values()):
            self._moved.clear()
            await self._moved.wait()
            await self.flush()
