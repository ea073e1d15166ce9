"""Real containers behind the streaming server, with many clients of which half vanish."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shim.kernel import namespaces
from shim.model.streams import StreamOptions
from shim.services.containers import exec as exec_
from shim.streaming import inbox
from shim.streaming.server import Settings, StreamingServer
from tests.integration.streaming import sessions

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

PORT = 7007


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find out soon that a client is gone, and give what it has left behind less time to end by itself."""
    monkeypatch.setattr(inbox, "_PROBE_S", 0.2)
    monkeypatch.setattr(exec_, "_HANG_UP_S", 0.2)


class Node:
    """A container that repeats each line, and a server that echoes in its pod's network."""

    port = PORT

    def __init__(self, server: StreamingServer, pod: str, container: str) -> None:
        self._server, self._pod, self._container = server, pod, container

    async def exec_url(self, argv: tuple[str, ...], options: StreamOptions) -> str:
        return self._server.exec_url(self._container, argv, options)

    async def attach_url(self, options: StreamOptions) -> str:
        return self._server.attach_url(self._container, options)

    async def port_forward_url(self) -> str:
        return self._server.port_forward_url(self._pod, ())

    def begun(self, data: bytes) -> bytes:
        return data


def listening_in(netns: str) -> socket.socket:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(netns, os.O_RDONLY)
    try:
        namespaces.setns(there, namespaces.CLONE_NEWNET)
        return socket.create_server(("127.0.0.1", PORT))
    finally:
        namespaces.setns(before, namespaces.CLONE_NEWNET)
        os.close(before)
        os.close(there)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def opened(bed: Any) -> AsyncIterator[Node]:
    pod = await bed.pod()
    id_ = await bed.container(pod, "while read line; do echo $line; done", stdin=True)
    server = StreamingServer(bed.streams, Settings())
    await server.start()
    there = await asyncio.start_server(
        echo, sock=listening_in(bed.node.records.sandbox(pod).spec.pins["net"])
    )
    try:
        async with bed.nothing_left():
            yield Node(server, pod, id_)
            await bed.until(lambda: not server._connections)
            await bed.until(lambda: processes_of(bed, id_) == 1)
    finally:
        there.close()
        await there.wait_closed()
        await server.stop()


def processes_of(bed: Any, id_: str) -> int:
    """Return how many processes a container has, those of execs too."""
    found = set()
    for mount in Path("/sys/fs/cgroup").iterdir():
        for at, _, _ in os.walk(f"{mount}{bed.daemon.parent}"):
            if id_ in at:
                with suppress(OSError):
                    found |= set(Path(at, "cgroup.procs").read_text().split())
    return len(found)


async def test_half_of_many_sessions_are_cut_and_nothing_is_left(bed: Any) -> None:
    async with opened(bed) as node:
        seen = await sessions.many(node, 60, random.Random(11))  # noqa: S311
    assert seen.total() == 60
    assert sum(count for name, count in seen.items() if name.endswith(", cut")) == 30


async def test_slow_clients_hold_up_no_fast_ones(bed: Any) -> None:
    """Each kind of slow session stands still while the others come to their end."""
    async with opened(bed) as node:
        slow = [sessions.Session(node, number) for number in range(2 * len(sessions.ENDLESS))]
        tasks = [
            asyncio.ensure_future(sessions.ENDLESS[number % len(sessions.ENDLESS)](session))
            for number, session in enumerate(slow)
        ]
        for kind in sessions.ENDING * 2:
            fast = sessions.Session(node, 100)
            await kind(fast)
            await fast.close()
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in slow:
            session.cut()
