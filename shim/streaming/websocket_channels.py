"""Channels over a WebSocket: each message begins with the number of its channel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from shim.streaming import subprotocols
from shim.streaming.inbox import MOST_BYTES, Inbox
from shim.streaming.subprotocols import Framing
from shim.streaming.wire import WebSocket


class WebSocketChannel:
    """One channel."""

    def __init__(self, socket: WebSocket, framing: Framing, number: int, inbox: Inbox) -> None:
        self.number = number
        self.inbox = inbox
        self._socket, self._framing = socket, framing

    async def read(self) -> bytes:
        """Return what comes next; empty at the end, which only version 5 can tell of."""
        return await self.inbox.take()

    async def write(self, data: bytes) -> None:
        """Send one message."""
        await self._socket.send(subprotocols.encode_message(self._framing, self.number, data))

    async def finish(self) -> None:
        """Nothing: a channel ends with the WebSocket."""


class WebSocketChannels:
    """All channels of one client.

    Args:
        socket: to and from it.
        framing: as agreed on.
        numbers: of the channels that there are; what comes for others is dropped.
    """

    def __init__(self, socket: WebSocket, framing: Framing, numbers: Iterable[int]) -> None:
        self._socket, self._framing = socket, framing
        self._moved = asyncio.Event()
        self.channels = {
            number: WebSocketChannel(socket, framing, number, Inbox(self._used)) for number in numbers
        }

    async def run(self) -> None:
        """Read until the client is gone; then every channel is broken off.

        Raises:
            ValueError: it does not speak as agreed on.
        """
        try:
            while (message := await self._socket.receive()) is not None:
                self._take_in(*subprotocols.decode_message(self._framing, message))
                while any(each.inbox.waiting_bytes > MOST_BYTES for each in self.channels.values()):
                    self._moved.clear()
                    await self._moved.wait()
        finally:
            for channel in self.channels.values():
                channel.inbox.break_off()

    def ignore(self) -> None:
        """Drop whatever still comes."""
        for channel in self.channels.values():
            channel.inbox.ignore()

    def _take_in(self, number: int, data: bytes) -> None:
        if number == subprotocols.CLOSE_CHANNEL and self._framing.version >= 5:
            if len(data) == 1 and data[0] in self.channels:
                self.channels[data[0]].inbox.end()
        elif number in self.channels and data:
            self.channels[number].inbox.put(data)

    def _used(self, _: int) -> None:
        self._moved.set()
