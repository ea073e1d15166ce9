"""Many sessions of every kind, half of them cut by their clients at random points.

``tests/integration/streams`` has a short form with real containers; ``hack/soak-streams`` the long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from shim.model.streams import StreamOptions
from tests.integration.streaming.clients import (
    SpdyClient,
    Stream,
    spdy_client,
    status,
    tunnel_client,
    websocket_client,
)

ALL: Final = StreamOptions(stdin=True, stdout=True, stderr=True)
TTY: Final = StreamOptions(stdin=True, stdout=True, tty=True)
V4: Final = "v4.channel.k8s.io"
V5: Final = "v5.channel.k8s.io"
SIZE: Final = 300_000
PIECE: Final = 32 * 1024
AT_ONCE: Final = 40
_CUT_WITHIN_S: Final = 0.4


class Node(Protocol):
    """Where sessions are opened: a container that repeats each line, and its pod with a server that echoes.

    Attributes:
        port: of that server, on the pod's localhost.
    """

    port: int

    async def exec_url(self, argv: tuple[str, ...], options: StreamOptions) -> str: ...

    async def attach_url(self, options: StreamOptions) -> str: ...

    async def port_forward_url(self) -> str: ...

    def begun(self, data: bytes) -> bytes:
        """Return what is said to that server instead of ``data``, which comes first."""


class Session:
    """One session; ``cut`` ends it at any point.

    Args:
        node: where.
        number: of the session, for what it says.
    """

    def __init__(self, node: Node, number: int) -> None:
        self.node, self.number = node, number
        self._clients: list[Any] = []

    def keep(self, client: Any) -> Any:
        self._clients.append(client)
        return client

    def cut(self) -> None:
        """Vanish."""
        for client in self._clients:
            client.cut()

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def commanded(self, url: str, *kinds: str) -> list[Stream]:
        client: SpdyClient = self.keep(await spdy_client(url, V4))
        return [await client.open(streamType=kind) for kind in ("error", *kinds)]


async def exec_over_spdy(session: Session) -> None:
    """What goes in comes out."""
    url = await session.node.exec_url(("cat",), ALL)
    error, stdin, out, _ = await session.commanded(url, "stdin", "stdout", "stderr")
    await _echoed(stdin, out)
    assert status(await error.read_all())["status"] == "Success"


async def exec_over_websocket(session: Session) -> None:
    """The same in messages."""
    url = await session.node.exec_url(("cat",), ALL)
    client = session.keep(await websocket_client(url, V5))
    data = os.urandom(SIZE)

    async def send() -> None:
        for at in range(0, SIZE, PIECE):
            await client.send(b"\0" + data[at : at + PIECE])
        await client.send(b"\xff\0")

    channels, _ = await asyncio.gather(client.collect(), send())
    assert channels[1] == data
    assert status(channels[3])["status"] == "Success"


async def exec_with_a_terminal(session: Session) -> None:
    """Its size is there before the first byte, and what is typed is shown."""
    url = await session.node.exec_url(("sh", "-c", "read line; exit 3"), TTY)
    error, stdin, out, resize = await session.commanded(url, "stdin", "stdout", "resize")
    await resize.write(b'{"Width":97,"Height":31}')
    await stdin.write(b"typed\n")
    assert b"typed" in await out.read_all()
    assert status(await error.read_all())["details"]["causes"][0]["message"] == "3"


async def attachment(session: Session) -> None:
    """A line that the container repeats, whatever others say to it meanwhile."""
    _, stdin, out, _ = await session.commanded(
        await session.node.attach_url(ALL), "stdin", "stdout", "stderr"
    )
    await stdin.write(b"line %d.\n" % session.number)
    await out.read_until(b"line %d." % session.number)


async def forwarded_over_spdy(session: Session) -> None:
    """Three connections at once."""
    await _forwarded(
        session, session.keep(await spdy_client(await session.node.port_forward_url(), "portforward.k8s.io"))
    )


async def forwarded_through_a_tunnel(session: Session) -> None:
    """The same in a WebSocket."""
    await _forwarded(session, session.keep(await tunnel_client(await session.node.port_forward_url())))


async def slow_reader(session: Session) -> None:
    """A flood that its client does not read; never ends by itself."""
    url = await session.node.exec_url(("cat", "/dev/zero"), StreamOptions(stdout=True))
    error, out = await session.commanded(url, "stdout")
    await out.read()
    out.client.reading.cancel()
    await asyncio.Event().wait()
    await error.read()


async def slow_writer(session: Session) -> None:
    """A client that says a byte now and then; never ends by itself."""
    url = await session.node.exec_url(("cat",), ALL)
    _, stdin, _, _ = await session.commanded(url, "stdin", "stdout", "stderr")
    while True:
        await stdin.write(b"x")
        await asyncio.sleep(0.05)


async def input_that_nobody_reads(session: Session) -> None:
    """More than anybody keeps; never ends by itself."""
    url = await session.node.exec_url(("sleep", "1000"), ALL)
    _, stdin, _, _ = await session.commanded(url, "stdin", "stdout", "stderr")
    while True:
        await stdin.write(bytes(PIECE))


ENDING: Final = (
    exec_over_spdy,
    exec_over_websocket,
    exec_with_a_terminal,
    attachment,
    forwarded_over_spdy,
    forwarded_through_a_tunnel,
)
ENDLESS: Final = (slow_reader, slow_writer, input_that_nobody_reads)


async def many(node: Node, count: int, chance: random.Random, at_once: int = AT_ONCE) -> Counter[str]:
    """Open sessions, and cut every other one; return how many of each kind were cut or came to their end.

    Raises:
        AssertionError, OSError: of a session that was not cut.
    """
    places, seen = asyncio.Semaphore(at_once), Counter[str]()

    async def one(number: int) -> None:
        cut = bool(number % 2)
        kind = chance.choice((*ENDING, *ENDLESS) if cut else ENDING)
        async with places:
            await (
                _cut(node, number, kind, chance.random() * _CUT_WITHIN_S) if cut else _run(node, number, kind)
            )
        seen[f"{kind.__name__}{', cut' if cut else ''}"] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one(number))
    return seen


async def _run(node: Node, number: int, kind: Callable[[Session], Awaitable[None]]) -> None:
    session = Session(node, number)
    try:
        await kind(session)
    finally:
        await session.close()


async def _cut(node: Node, number: int, kind: Callable[[Session], Awaitable[None]], after_s: float) -> None:
    session = Session(node, number)
    task = asyncio.ensure_future(kind(session))
    await asyncio.wait((task,), timeout=after_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    session.cut()


async def _forwarded(session: Session, client: SpdyClient) -> None:
    async def one(request: int) -> None:
        headers = {"port": str(session.node.port), "requestID": str(request)}
        error = await client.open(streamType="error", **headers)
        await error.finish()
        data = await client.open(streamType="data", **headers)
        await data.write(session.node.begun(b""))
        await _echoed(data, data)
        assert await error.read_all() == b""

    async with asyncio.TaskGroup() as tasks:
        for request in range(3):
            tasks.create_task(one(request))


async def _echoed(into: Stream, out: Stream) -> None:
    data = os.urandom(SIZE)

    async def send() -> None:
        for at in range(0, SIZE, PIECE):
            await into.write(data[at : at + PIECE])
        await into.finish()

    got, _ = await asyncio.gather(out.read_all(), send())
    assert got == data
