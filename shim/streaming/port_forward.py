"""Port-forward: bytes between sockets in a pod and channels of a client, two for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from shim.errors import ShimError
from shim.streaming.collaborators import Channel
from shim.streaming.spdy_channels import SpdyChannel
from shim.streaming.tasks import Tasks
from shim.streaming.wire import CHUNK

log = logging.getLogger(__name__)

Dial = Callable[[int], Awaitable[socket.socket]]


async def forward(dial: Dial, port: int, data: Channel, error: Channel, *, halves: bool = True) -> None:
    """Connect, and copy both ways; a failure is told on this connection's error channel alone.

    Args:
        dial: connects.
        port: to which.
        data: both ways.
        error: gets a line of text if something fails.
        halves: the client can end its direction alone; else all is over when the pod has ended its.
    """
    try:
        sock = await dial(port)
    except (ShimError, OSError) as failure:
        told = f"cannot forward port {port}: {failure}"
    else:
        with sock:
            failed = await _Copy(sock, data).run(halves=halves)
        told = f"port {port}: {failed.strerror or failed}" if failed else ""
    data.ignore()  # the client may go on to send: nobody reads it, and it must not hold up others
    with contextlib.suppress(ConnectionError):
        if told:
            await error.write(told.encode())
    for channel in (data, error):
        channel.ignore()
        with contextlib.suppress(ConnectionError):
            await channel.finish()


class _Copy:
    """One connection. What the pod does is told apart from what the client does: only that is a failure."""

    def __init__(self, sock: socket.socket, data: Channel) -> None:
        self._sock, self._data = sock, data
        self._failure: OSError | None = None
        self._pod_ended = False

    async def run(self, *, halves: bool) -> OSError | None:
        """Copy to the end of both, or until the client breaks off; return what failed on the pod's side."""
        to_pod, from_pod = (asyncio.ensure_future(each) for each in (self._to_pod(), self._from_pod()))
        pending = {to_pod, from_pod}
        try:
            while pending and not (from_pod.done() and (self._failure or not halves)):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except ConnectionError:
            pass
        finally:
            for task in (to_pod, from_pod):
                task.cancel()
            await asyncio.gather(to_pod, from_pod, return_exceptions=True)
        return self._failure

    async def _to_pod(self) -> None:
        loop = asyncio.get_running_loop()
        wanted = True
        while part := await self._data.read():
            try:
                if wanted:
                    await loop.sock_sendall(self._sock, part)
            except OSError as failure:
                wanted = False
                self._fail(failure)
            await asyncio.sleep(0)  # others have a turn, however much there is
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def _from_pod(self) -> None:
        loop = asyncio.get_running_loop()
        while part := await self._receive(loop):
            await self._data.write(part)
            await asyncio.sleep(0)
        self._pod_ended = True
        await self._data.finish()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._sock, CHUNK)
        except OSError as failure:
            self._fail(failure)
            return b""

    def _fail(self, failure: OSError) -> None:
        """Keep the first failure; a pod that has ended its direction may also stop to read."""
        if self._failure is None and not self._pod_ended:
            self._failure = failure


class Pairs:
    """Puts channels that the client opens together, two by two, and forwards each pair.

    Args:
        dial: connects to a port of the pod.
        wait_s: how long a channel waits for its other half.
    """

    def __init__(self, dial: Dial, wait_s: float) -> None:
        self._tasks = Tasks()
        self._dial, self._wait_s = dial, wait_s
        self._halves: dict[str, tuple[SpdyChannel, asyncio.TimerHandle]] = {}
        # By the number of the data channel: who copies, and the error channel.
        self._open: dict[int, tuple[asyncio.Task[None], SpdyChannel]] = {}

    def opened(self, channel: SpdyChannel) -> None:
        """Take a channel in; one that makes no sense is broken off."""
        kind, port = channel.headers.get("streamtype", ""), _port(channel.headers.get("port", ""))
        if kind not in ("data", "error") or port is None:
            channel.refuse()
            return
        # Clients that number no requests open the error channel first, and the other next.
        before = channel.number if kind == "error" else channel.number - 2
        request = channel.headers.get("requestid") or f"#{before}"
        if request not in self._halves:
            timer = asyncio.get_running_loop().call_later(self._wait_s, self._give_up, request)
            self._halves[request] = channel, timer
            return
        other, timer = self._halves.pop(request)
        timer.cancel()
        if other.headers["streamtype"] == kind:
            other.refuse()
            channel.refuse()
        else:
            data, error = (channel, other) if kind == "data" else (other, channel)
            task = self._tasks.start(forward(self._dial, port, data, error))
            self._open[data.number] = task, error
            task.add_done_callback(lambda _: self._open.pop(data.number, None))

    def stands_still(self, channel: SpdyChannel) -> None:
        """Break a connection off that holds up others of its client; one that is alone may take its time.

        Nothing is told on its error channel: clients such as kubectl leave with all connections then.
        """
        if channel.number not in self._open or len(self._open) < 2:
            return
        log.info("a forwarded connection is broken off: its pod reads nothing, and it holds up others")
        task, error = self._open.pop(channel.number)
        task.cancel()
        channel.refuse()
        _ = self._tasks.start(error.finish())

    async def close(self) -> None:
        """End all connections."""
        for _, timer in self._halves.values():
            timer.cancel()
        await self._tasks.cancel()

    def _give_up(self, request: str) -> None:
        channel, _ = self._halves.pop(request)
        _ = self._tasks.start(self._tell_alone(channel))

    async def _tell_alone(self, channel: SpdyChannel) -> None:
        if channel.headers["streamtype"] == "error":
            await channel.write(b"the data stream of this request has not come")
        channel.refuse()


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < int(text) <= 0xFFFF else None
