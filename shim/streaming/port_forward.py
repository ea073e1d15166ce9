"""Port-forward: bytes between sockets in a pod and channels of a client, two for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from shim.errors import ShimError
from shim.streaming.collaborators import Channel
from shim.streaming.spdy_channels import SpdyChannel
from shim.streaming.tasks import Tasks
from shim.streaming.wire import CHUNK

_PAIR_S: Final = 30.0

Dial = Callable[[int], Awaitable[socket.socket]]


async def forward(dial: Dial, port: int, data: Channel, error: Channel) -> None:
    """Connect, and copy both ways; a failure is told on this connection's error channel alone."""
    try:
        sock = await dial(port)
    except (ShimError, OSError) as failure:
        await _tell(error, f"cannot forward port {port}: {failure}")
    else:
        with sock:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_to_pod(data, sock))
                    both.create_task(_from_pod(sock, data))
            except* OSError as failures:
                await _tell(error, f"port {port}: {failures.exceptions[0]}")
    for channel in (data, error):
        with contextlib.suppress(ConnectionError):
            await channel.finish()


async def _to_pod(data: Channel, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while part := await data.read():
        await loop.sock_sendall(sock, part)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


async def _from_pod(sock: socket.socket, data: Channel) -> None:
    loop = asyncio.get_running_loop()
    while part := await loop.sock_recv(sock, CHUNK):
        await data.write(part)
    await data.finish()


async def _tell(error: Channel, message: str) -> None:
    with contextlib.suppress(ConnectionError):
        await error.write(message.encode())


class Pairs:
    """Puts channels that the client opens together, two by two, and forwards each pair.

    Args:
        dial: connects to a port of the pod.
    """

    def __init__(self, dial: Dial) -> None:
        self.tasks = Tasks()
        self._dial = dial
        self._halves: dict[str, SpdyChannel] = {}

    def opened(self, channel: SpdyChannel) -> None:
        """Take a channel in; one that makes no sense is broken off."""
        kind, port = channel.headers.get("streamtype", ""), _port(channel.headers.get("port", ""))
        if kind not in ("data", "error") or port is None:
            self.tasks.start(channel.refuse())
            return
        # Clients that number no requests open the error channel first, and the other next.
        before = channel.number if kind == "error" else channel.number - 2
        request = channel.headers.get("requestid") or f"#{before}"
        other = self._halves.pop(request, None)
        if other is None:
            self._halves[request] = channel
            self.tasks.start(self._give_up(request, channel))
        elif other.headers["streamtype"] == kind:
            self.tasks.start(other.refuse())
            self.tasks.start(channel.refuse())
        else:
            data, error = (channel, other) if kind == "data" else (other, channel)
            self.tasks.start(forward(self._dial, port, data, error))

    async def _give_up(self, request: str, channel: SpdyChannel) -> None:
        await asyncio.sleep(_PAIR_S)
        if self._halves.get(request) is channel:
            del self._halves[request]
            await channel.refuse()


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < int(text) <= 0xFFFF else None
