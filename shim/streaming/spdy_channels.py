"""Channels over SPDY/3.1: the one place that joins ``spdy.Connection`` and a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shim.streaming import spdy
from shim.streaming.inbox import Inbox, Intake
from shim.streaming.limits import Limits
from shim.streaming.spdy_frames import FrameError, GoAway, Headers, Reset
from shim.streaming.wire import Wire

# Answers to the client that may wait to be sent before no more is read of what causes them.
_ANSWERS_BYTES: Final = 64 * 1024


class SpdyChannel:
    """One stream, with the headers that opened it."""

    def __init__(self, mux: SpdyChannels, number: int, headers: Headers, intake: Intake) -> None:
        self.number = number
        self.headers = dict(headers)
        self.inbox = Inbox(intake, self._used)
        self.broken = False
        self._mux = mux

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
            self._mux.finish(self.number)

    def ignore(self) -> None:
        """Drop what is here and what still comes. Idempotent."""
        self.inbox.ignore()

    def refuse(self) -> None:
        """Break it off: it is not what was agreed on."""
        self._mux.refuse(self)

    def _used(self, count: int) -> None:
        self._mux.acknowledge(self.number, count)


class SpdyChannels:
    """All channels of one client.

    Args:
        wire: to and from it.
        limits: what it may ask for.
        opened: called with each channel that the client opens; it is answered already.
        still: called now and then with a channel that holds up all others, since it is full and nothing was
            taken from it for ``limits.still_s``.
    """

    def __init__(
        self,
        wire: Wire,
        limits: Limits,
        opened: Callable[[SpdyChannel], None],
        still: Callable[[SpdyChannel], None] | None = None,
    ) -> None:
        self._limits, self._still = limits, still
        self.connection = spdy.Connection(limits=limits)
        self._wire = wire
        self._opened = opened
        self._channels: dict[int, SpdyChannel] = {}
        self._intake = Intake()
        self._moved = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Read until the client is gone; then every channel is broken off.

        Raises:
            ValueError: it does not speak SPDY/3.1; it was told so.
            ConnectionError: it is gone, as was seen when something was sent.
        """
        answered = 0
        try:
            while data := await self._wire.read():
                for event in self.connection.receive_data(data):
                    self._take_in(event)
                answered += self._push()
                if answered > _ANSWERS_BYTES:
                    answered = 0
                    await self._wire.drain()
                if self._intake.crowded:
                    await self._intake.room(self._probe)
        except FrameError:
            self.go_away(GoAway.PROTOCOL_ERROR)
            raise
        finally:
            self._over = True
            for channel in list(self._channels.values()):
                self._break(channel)

    def ignore(self) -> None:
        """Drop whatever still comes."""
        for channel in self._channels.values():
            channel.inbox.ignore()

    def go_away(self, status: GoAway = GoAway.OK) -> None:
        """Tell the client that this is the end."""
        self.connection.go_away(status)
        self._push()

    async def send(self, number: int, data: bytes) -> None:
        """Send a piece for which there is room; return when there is room in the wire for more."""
        self.connection.send(number, data)
        self._push()
        await self._wire.drain()

    async def room(self, channel: SpdyChannel) -> int:
        """Wait until something can be sent; return how much."""
        while not channel.broken:
            room = self.connection.room(channel.number)
            if room:
                return room
            self._moved.clear()
            await self._moved.wait()
        raise ConnectionResetError("the client has broken it off")

    def finish(self, number: int) -> None:
        """Send the end of a channel."""
        self.connection.finish(number)
        self._forget_if_over(number)
        self._push()

    def refuse(self, channel: SpdyChannel) -> None:
        """Break a channel off."""
        self.connection.reset(channel.number, Reset.REFUSED_STREAM)
        self._break(channel)
        self._push()

    def acknowledge(self, number: int, count: int) -> None:
        """Give room back to the client."""
        self.connection.acknowledge(number, count)
        self._push()

    def _push(self) -> int:
        """Send what the protocol has ready; return how much. Only bytes of channels wait for room."""
        parts = self.connection.data_to_send()
        if parts and not self._over:
            self._wire.push(parts)
        return sum(map(len, parts))

    def _probe(self) -> None:
        self.connection.ping()
        self._push()
        if self._still is not None:
            for channel in list(self._channels.values()):
                if channel.inbox.still_s > self._limits.still_s:
                    self._still(channel)

    def _take_in(self, event: spdy.Event) -> None:
        match event:
            case spdy.Data(number, data):
                if channel := self._channels.get(number):
                    channel.inbox.put(data)
            case spdy.Opened(number, headers):
                channel = self._channels[number] = SpdyChannel(self, number, headers, self._intake)
                self.connection.accept(number)
                self._opened(channel)
            case spdy.Finished(number):
                if channel := self._channels.get(number):
                    channel.inbox.end()
                    self._forget_if_over(number)
            case spdy.Broken(number, _):
                if channel := self._channels.get(number):
                    self._break(channel)
            case spdy.Room():
                self._moved.set()

    def _break(self, channel: SpdyChannel) -> None:
        channel.broken = True
        self._channels.pop(channel.number, None)
        channel.inbox.break_off()
        self._moved.set()

    def _forget_if_over(self, number: int) -> None:
        if not self.connection.is_open(number):
            self._channels.pop(number, None)
