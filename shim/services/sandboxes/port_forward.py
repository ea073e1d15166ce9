"""PortForward: connections to ports of a pod, from inside its network namespace.

No thread of the daemon enters a namespace: a short-lived process opens sockets in the pod's and sends them
up, and the daemon connects them, since a socket stays in the namespace it was made in. Connections that are
asked for while one such process is under way share the next one. Some are opened ahead (``socket_stock``):
when a client is told where to connect, and while it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from shim.errors import FailedPrecondition, ShimError, Unavailable
from shim.model.sandbox import SandboxSpec, SandboxState
from shim.services.node import Node
from shim.services.socket_stock import Sockets, close
from shim.services.validate import streams as checks
from shim.services.views import SandboxView

_CONNECT_S: Final = 10.0
_MOST_AT_ONCE: Final = 32
_FAMILIES: Final = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

_AHEAD: Final = 2
_REFILL_S: Final = 0.02  # not beside the connection that has just begun


def check_port_forward(node: Node, id_: str, ports: tuple[int, ...]) -> SandboxView:
    """Return the sandbox whose ports could be connected to now.

    Raises:
        NotFound: no sandbox has this id or prefix.
        InvalidArgument: what is given is not a port.
        FailedPrecondition: the sandbox is not ready.
    """
    checks.check_ports(ports)
    view = node.records.sandbox(id_)
    if view.state is not SandboxState.READY:
        raise FailedPrecondition(f"cannot forward ports of sandbox {view.spec.id!r}: it is NOTREADY")
    return view


class Dialer:
    """Connects to ports of pods."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: dict[str, list[asyncio.Future[Sockets]]] = {}

    def expect(self, sandbox_id: str) -> None:
        """Open sockets for a client who is about to come; they are closed again if he does not.

        Raises:
            NotFound, FailedPrecondition: as ``check_port_forward``.
        """
        spec = check_port_forward(self._node, sandbox_id, ()).spec
        if "net" in spec.pins:
            self._node.sockets.expect(spec.id)
            self._refill(spec)

    @contextmanager
    def session(self, sandbox_id: str) -> Iterator[None]:
        """Have sockets ready while a client is there."""
        with self._node.sockets.session(sandbox_id):
            yield

    async def dial(self, sandbox_id: str, port: int) -> socket.socket:
        """Return a socket, connected to a port of localhost as the pod sees it; it does not block.

        IPv4 is tried first.

        Raises:
            NotFound, InvalidArgument, FailedPrecondition: as ``check_port_forward``.
            Unavailable: nothing answers there.
        """
        spec = check_port_forward(self._node, sandbox_id, (port,)).spec
        sockets = await self._sockets(spec)
        refused = []
        try:
            async with asyncio.timeout(_CONNECT_S):
                for sock in sockets:
                    address = _LOOPBACK[sock.family]
                    try:
                        await asyncio.get_running_loop().sock_connect(sock, (address, port))
                    except OSError as error:
                        refused.append(f"{address}: {os.strerror(error.errno or 0).lower()}")
                    else:
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        sockets.remove(sock)
                        return sock
        except TimeoutError:
            refused.append(f"no answer in {_CONNECT_S:g} s")
        finally:
            close(sockets)
        raise Unavailable(f"cannot connect to port {port} of sandbox {spec.id!r}: {', '.join(refused)}")

    async def _sockets(self, spec: SandboxSpec) -> Sockets:
        """Return a socket of each family in the pod's network, IPv4 first."""
        if "net" not in spec.pins:
            return _of_this_network()
        loop = asyncio.get_running_loop()
        future = self._node.sockets.take(spec.id)
        if future is None or future.cancelled() or (future.done() and future.exception() is not None):
            future = self._ask(spec)
        loop.call_later(_REFILL_S, self._refill, spec)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                close(future.result())
            raise

    def _refill(self, spec: SandboxSpec) -> None:
        stock = self._node.sockets
        for _ in range(stock.lacks(spec.id, _AHEAD)):
            stock.put(spec.id, self._ask(spec))

    def _ask(self, spec: SandboxSpec) -> asyncio.Future[Sockets]:
        """Return the sockets to come of the next process that opens some."""
        future: asyncio.Future[Sockets] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(spec.id)
        if waiting is not None:
            waiting.append(future)
        else:
            self._waiting[spec.id] = [future]
            self._node.background.start(f"sockets in sandbox {spec.id}", self._serve(spec))
        return future

    async def _serve(self, spec: SandboxSpec) -> None:
        """Open sockets for all who wait, until nobody does."""
        waiting = self._waiting[spec.id]
        asking: list[asyncio.Future[Sockets]] = []
        try:
            while waiting:
                asking, waiting[:] = waiting[:_MOST_AT_ONCE], waiting[_MOST_AT_ONCE:]
                try:
                    fds = await self._node.launcher.sockets(spec, len(asking))
                except (ShimError, OSError) as error:
                    _fail(asking, Unavailable(f"cannot reach the network of sandbox {spec.id!r}: {error}"))
                else:
                    _hand_out(asking, fds)
        finally:
            del self._waiting[spec.id]
            for future in (*asking, *waiting):
                future.cancel()


def _hand_out(asking: list[asyncio.Future[Sockets]], fds: Mapping[str, int]) -> None:
    for number, future in enumerate(asking):
        sockets = [
            socket.socket(kind, socket.SOCK_STREAM, 0, fds[f"{family} {number}"])
            for family, kind in _FAMILIES.items()
            if f"{family} {number}" in fds
        ]
        for sock in sockets:
            sock.setblocking(False)
        if future.done():
            close(sockets)
        else:
            future.set_result(sockets)


def _fail(asking: list[asyncio.Future[Sockets]], error: Unavailable) -> None:
    for future in asking:
        if not future.done():
            future.set_exception(Unavailable(str(error)))


def _of_this_network() -> Sockets:
    """Return sockets for a pod on the host's network, which is the daemon's own."""
    sockets: Sockets = []
    for family in _FAMILIES.values():
        with contextlib.suppress(OSError) if sockets else contextlib.nullcontext():
            sockets.append(socket.socket(family, socket.SOCK_STREAM))
            sockets[-1].setblocking(False)
    return sockets
