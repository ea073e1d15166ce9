"""The streaming server: HTTP on a TCP port, tokens in its paths, an upgrade, then streams.

    daemon                      client (kubelet, or crictl)
      | <-- Exec, Attach, PortForward over the CRI --|
      | -- url with a token ----------------------->  |
      | <-- POST or GET url, Upgrade: ... ----------- |
      | -- 101 ------------------------------------>  |
      | <== channels over SPDY/3.1 or WebSocket ====> |

A token is good for one request within a minute; whoever has none gets 404 and reaches nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from shim.kernel import memory
from shim.model.streams import StreamOptions
from shim.streaming import spdy_commands, websocket_commands
from shim.streaming.collaborators import Streams
from shim.streaming.http import BadRequest, Handshake, Request
from shim.streaming.jobs import Agreed, Attach, Exec, Job, PortForward, Refusal
from shim.streaming.limits import Limits
from shim.streaming.tokens import Tokens
from shim.streaming.wire import Tcp

log = logging.getLogger(__name__)

_CLOSE_S: Final = 5.0
_TRIM_S: Final = 5.0  # from the end of a connection on; others may end until then
_MANY: Final = 16  # connections that have ended: what they leave in cycles is worth a collection
_READ_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to listen.

    Attributes:
        address: an IP address of this node.
        port: 0: any free one.
        tls: for https; None: http.
        limits: of connections.
    """

    address: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    limits: Limits = field(default_factory=Limits)


class StreamingServer:
    """Serves what it has handed out URLs for."""

    def __init__(self, streams: Streams, settings: Settings = Settings()) -> None:
        self._streams = streams
        self._settings = settings
        self._tokens: Tokens[Job] = Tokens()
        self._server: asyncio.Server | None = None
        self._base = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.TimerHandle | None = None
        self._uncollected = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is not this node's, or the port is taken.
        """
        settings = self._settings
        self._server = await asyncio.start_server(
            self._accepted, settings.address, settings.port, ssl=settings.tls, limit=_READ_BYTES
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        self._base = f"{'https' if settings.tls else 'http'}://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening, and end every stream."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._trimming is not None:
            self._trimming.cancel()
        await self._server.wait_closed()

    def exec_url(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> str:
        """Return where a program's streams are; it is executed once the connection asks for it."""
        ahead = self._streams.expect_exec(container_id, argv, options)
        return self._url("exec", Exec(container_id, argv, options, ahead))

    def attach_url(self, container_id: str, options: StreamOptions) -> str:
        """Return where a container's streams are."""
        return self._url("attach", Attach(container_id, options))

    def port_forward_url(self, sandbox_id: str, ports: tuple[int, ...]) -> str:
        """Return where a sandbox's ports are; no ports: the streams name them."""
        self._streams.expect_ports(sandbox_id)
        return self._url("portforward", PortForward(sandbox_id, ports))

    def _url(self, kind: str, job: Job) -> str:
        return f"{self._base}/{kind}/{self._tokens.add(job)}"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._ended)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops
        except OSError as error:
            log.info("a streaming connection ends: %s", error)
        finally:
            await _close(writer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._uncollected += 1
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(_TRIM_S, self._trim)

    def _trim(self) -> None:
        """Many large buffers are gone: without this their pages would stay in the daemon for good.

        The streams of asyncio refer to each other in circles, buffers included, and a daemon that makes few
        objects collects them late.
        """
        self._trimming = None
        if self._uncollected >= _MANY:
            self._uncollected = 0
            gc.collect()
        memory.trim()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limits = self._settings.limits
        handshake = Handshake(limits.head_bytes)
        answer: Refusal | Agreed | None
        if len(self._connections) > limits.connections:
            answer = Refusal(503, f"{limits.connections} connections are open already")
        else:
            answer = await self._hear(handshake, reader)
        if answer is None:
            return
        tcp = Tcp(reader, writer)
        if isinstance(answer, Refusal):
            tcp.push([handshake.refuse(answer.status, answer.text, answer.headers)])
        else:
            tcp.push([handshake.upgrade(answer.headers)])
            tcp.put_back(handshake.trailing_data())
            try:
                async with _idle(tcp, limits.idle_s):
                    await answer.serve(tcp, self._streams, limits)
                    await tcp.flush()
            except ValueError as error:  # it was told so, and gets to read it
                log.info("a streaming connection ends: %s", error)
        await tcp.finish()

    async def _hear(self, handshake: Handshake, reader: asyncio.StreamReader) -> Refusal | Agreed | None:
        """Return the answer to the request; None if the client leaves instead of asking."""
        head_s = self._settings.limits.head_s
        try:
            async with asyncio.timeout(head_s):
                request = await _head(handshake, reader)
        except BadRequest as error:
            return Refusal(error.status, str(error))
        except TimeoutError:
            return Refusal(408, f"no whole request within {head_s:g} s")
        return None if request is None else self._answer(request)

    def _answer(self, request: Request) -> Refusal | Agreed:
        job = self._job(request)
        if job is None:
            return Refusal(404, "no such request: a token is good for one connection, within a minute")
        if request.method not in ("GET", "POST"):
            return Refusal(405, f"{request.method} is neither GET nor POST", (("Allow", "GET, POST"),))
        if not request.has("connection", "upgrade"):
            return Refusal(400, "streams need an upgrade of the connection to SPDY/3.1 or WebSocket")
        if request.has("upgrade", "websocket"):
            return websocket_commands.agree(request, job)
        if request.has("upgrade", "SPDY/3.1"):
            return spdy_commands.agree(request, job)
        return Refusal(400, f"cannot upgrade to {request.values('upgrade')}: to SPDY/3.1 or websocket")

    def _job(self, request: Request) -> Job | None:
        path = request.target.partition("?")[0].split("/")
        if len(path) != 3 or path[0]:
            return None
        job = self._tokens.take(path[2])
        return job if job is not None and path[1] == job.KIND else None


async def _head(handshake: Handshake, reader: asyncio.StreamReader) -> Request | None:
    while True:
        data = await reader.read(_READ_BYTES)
        request = handshake.receive_data(data)
        if request is not None or not data:
            return request


@contextlib.asynccontextmanager
async def _idle(tcp: Tcp, idle_s: float) -> AsyncIterator[None]:
    """End what is inside when nothing moves for so long.

    Raises:
        ConnectionError: so it was.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(idle_s) as idle:
            tcp.active = lambda: idle.reschedule(loop.time() + idle_s)
            yield
    except TimeoutError:
        raise ConnectionAbortedError(f"nothing has moved for {idle_s:g} s") from None
    finally:
        tcp.active = None


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what the client does not take soon is dropped."""
    writer.close()
    with contextlib.suppress(OSError):
        try:
            async with asyncio.timeout(_CLOSE_S):
                await writer.wait_closed()
        except TimeoutError:
            writer.transport.abort()
