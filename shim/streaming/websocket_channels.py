"""Channels over a WebSocket: each message begins with the number of its channel."""

from __future__ import annotations

from collections.abc import Iterable

from wsproto.frame_protocol import CloseReason

from shim.streaming import subprotocols
from shim.streaming.inbox import Inbox, Intake
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
        self._socket.push(subprotocols.encode_message(self._framing, self.number, data))
        await self._socket.drain()

    async def finish(self) -> None:
        """Nothing: a channel ends with the WebSocket."""

    def ignore(self) -> None:
        """Drop what is here and what still comes. Idempotent."""
        self.inbox.ignore()


class WebSocketChannels:
    """All channels of one client.

    Args:
        socket: to and from it.
        framing: as agreed on.
        numbers: of the channels that there are; what comes for others is dropped.
    """

    def __init__(self, socket: WebSocket, framing: Framing, numbers: Iterable[int]) -> None:
        self._socket, self._framing = socket, framing
        self._intake = Intake()
        self.channels = {
            number: WebSocketChannel(socket, framing, number, Inbox(self._intake)) for number in numbers
        }

    async def run(self) -> None:
        """Read until the client is gone; then every channel is broken off.

        Raises:
            ValueError: it does not speak as agreed on; it was told so.
            ConnectionError: it is gone, as was seen when something was sent.
        """
        try:
            while (message := await self._socket.receive()) is not None:
                if message:
                    self._take_in(message)
                if self._intake.crowded:
                    await self._intake.room(self._socket.ping)
        finally:
            for channel in self.channels.values():
                channel.inbox.break_off()

    def ignore(self) -> None:
        """Drop whatever still comes."""
        for channel in self.channels.values():
            channel.inbox.ignore()

    def _take_in(self, message: bytes | str) -> None:
        try:
            number, data = subprotocols.decode_message(self._framing, message)
            ended = subprotocols.closed_channel(self._framing, number, data)
        except ValueError as error:
            self._socket.close(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
            raise
        if ended is not None:
            number, data = ended, b""
        channel = self.channels.get(number)
        if channel is None:
            return
        if data:
            channel.inbox.put(data)
        if ended is not None:
            channel.inbox.end()
