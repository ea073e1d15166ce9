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
import logging
import ssl
from dataclasses import dataclass
from typing import Final

from shim.model.streams import StreamOptions
from shim.streaming import spdy_commands, websocket_commands
from shim.streaming.collaborators import Streams
from shim.streaming.http import BadRequest, Handshake, Request
from shim.streaming.jobs import Agreed, Attach, Exec, Job, PortForward, Refusal
from shim.streaming.tokens import Tokens
from shim.streaming.wire import Tcp

log = logging.getLogger(__name__)

_HEAD_S: Final = 10.0
_READ_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to listen.

    Attributes:
        address: an IP address of this node.
        port: 0: any free one.
        idle_s: a connection on which nothing moves for so long is closed.
        tls: for https; None: http.
    """

    address: str = "127.0.0.1"
    port: int = 0
    idle_s: float = 4 * 3600.0
    tls: ssl.SSLContext | None = None


class StreamingServer:
    """Serves what it has handed out URLs for."""

    def __init__(self, streams: Streams, settings: Settings = Settings()) -> None:
        self._streams = streams
        self._settings = settings
        self._tokens: Tokens[Job] = Tokens()
        self._server: asyncio.Server | None = None
        self._base = ""
        self._connections: set[asyncio.Task[None]] = set()

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
        await self._server.wait_closed()

    def exec_url(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> str:
        """Return where a program's streams are; it is started by the connection."""
        return self._url("exec", Exec(container_id, argv, options))

    def attach_url(self, container_id: str, options: StreamOptions) -> str:
        """Return where a container's streams are."""
        return self._url("attach", Attach(container_id, options))

    def port_forward_url(self, sandbox_id: str, ports: tuple[int, ...]) -> str:
        """Return where a sandbox's ports are; no ports: the streams name them."""
        return self._url("portforward", PortForward(sandbox_id, ports))

    def _url(self, kind: str, job: Job) -> str:
        return f"{self._base}/{kind}/{self._tokens.add(job)}"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops
        except (OSError, ValueError) as error:
            log.info("a streaming connection ends: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshake = Handshake()
        try:
            async with asyncio.timeout(_HEAD_S):
                request = await _head(handshake, reader)
        except BadRequest as error:
            await _refuse(writer, handshake, 400, str(error))
            return
        except TimeoutError:
            await _refuse(writer, handshake, 408, f"no whole request within {_HEAD_S:g} s")
            return
        if request is None:
            return
        answer = self._answer(request)
        if isinstance(answer, Refusal):
            await _refuse(writer, handshake, answer.status, answer.text, answer.headers)
            return
        writer.write(handshake.upgrade(answer.headers))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.idle_s) as idle:
            tcp = Tcp(
                reader,
                writer,
                handshake.trailing_data(),
                lambda: idle.reschedule(loop.time() + self._settings.idle_s),
            )
            await answer.serve(tcp, self._streams)
            await tcp.finish()

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


async def _refuse(
    writer: asyncio.StreamWriter,
    handshake: Handshake,
    status: int,
    text: str,
    headers: tuple[tuple[str, str], ...] = (),
) -> None:
    writer.write(handshake.refuse(status, text, headers))
    with contextlib.suppress(ConnectionError):
        await writer.drain()
