"""The metrics over HTTP/1.1, on a loopback address or a unix socket: ``GET /metrics`` and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Final

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from shim.errors import FailedPrecondition

log = logging.getLogger(__name__)

_MAX_REQUEST_BYTES: Final = 16384
_CHUNK_BYTES: Final = 65536
_TIMEOUT_S: Final = 10.0
_MOST_CLIENTS: Final = 16
_SOCKET_MODE: Final = 0o660


def split_address(text: str) -> tuple[str, int] | str:
    """Return host and port, or the path of a unix socket. Pure; the configuration has checked it."""
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class MetricsServer:
    """Serves a registry.

    Args:
        registry: what is told.
        address: as ``metrics.address`` of the configuration.
    """

    def __init__(self, registry: CollectorRegistry, address: str) -> None:
        self._registry = registry
        self._address = address
        self._where = split_address(address)
        self._server: asyncio.Server | None = None
        self._clients = 0

    @property
    def port(self) -> int:
        """The port in use; 0 for a unix socket."""
        name = self._server.sockets[0].getsockname() if self._server is not None else ()
        return int(name[1]) if isinstance(name, tuple) and name else 0

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            FailedPrecondition: the address cannot be used.
        """
        try:
            if isinstance(self._where, str):
                # It removes a socket that a killed daemon has left, and nothing else that may lie there.
                self._server = await asyncio.start_unix_server(self._serve, self._where)
                os.chmod(self._where, _SOCKET_MODE)
            else:
                self._server = await asyncio.start_server(self._serve, *self._where)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot serve metrics at {self._address}: {error}: change metrics.address"
            ) from None

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        if isinstance(self._where, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._where)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _MOST_CLIENTS:
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._answer(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            log.debug("a client of the metrics is gone: %s", error)
        finally:
            self._clients -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        request = None
        while request is None:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK_BYTES))
            elif isinstance(event, h11.Request):
                request = event
            else:
                return
        status, kind, body = await self._find(request)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        for part in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            writer.write(connection.send(part) or b"")
        await writer.drain()

    async def _find(self, request: h11.Request) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer."""
        if request.target.partition(b"?")[0] != b"/metrics":
            return 404, "text/plain", b"there is only /metrics\n"
        if request.method != b"GET":
            return 405, "text/plain", b"only GET is answered\n"
        accept = ",".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        encode, kind = choose_encoder(accept)
        return 200, kind, await asyncio.to_thread(encode, self._registry)
