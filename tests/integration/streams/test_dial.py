"""Connections into pods."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from shim.services.sandboxes.stop import stop_pod_sandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

PAGE = "mkdir /tmp/w; echo hello from $HOSTNAME >/tmp/w/index.html; exec busybox httpd -f -p {} -h /tmp/w"


async def fetch(sock: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def listening(bed: Any, pod: str, port: int) -> socket.socket:
    async with asyncio.timeout(20):
        while True:
            try:
                return await bed.streams.dial(pod, port)
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("host_network", [False, True])
async def test_a_port_of_a_pod(bed: Any, host_network: bool) -> None:
    pod = await bed.pod(host_network=host_network)
    await bed.container(pod, PAGE.format("127.0.0.1:8811"))
    sock = await listening(bed, pod, 8811)
    assert not sock.getblocking()
    assert b"hello from" in await fetch(sock)


async def test_a_port_that_listens_on_ipv6_alone(bed: Any) -> None:
    pod = await bed.pod()
    await bed.container(pod, PAGE.format("[::1]:8812"))
    assert b"hello from" in await fetch(await listening(bed, pod, 8812))


async def test_many_connections_at_once(bed: Any) -> None:
    pod = await bed.pod()
    await bed.container(pod, PAGE.format("127.0.0.1:8813"))
    (await listening(bed, pod, 8813)).close()

    async def one() -> bytes:
        return await fetch(await bed.streams.dial(pod, 8813))

    async with bed.nothing_left():
        pages = await asyncio.gather(*(one() for _ in range(50)))
        assert all(b"hello from" in page for page in pages)


async def test_pods_do_not_see_each_others_ports(bed: Any) -> None:
    first, second = await bed.pod(), await bed.pod()
    await bed.container(first, PAGE.format("127.0.0.1:8814"))
    (await listening(bed, first, 8814)).close()
    async with bed.nothing_left():
        with pytest.raises(
            Unavailable, match=rf"port 8814 of sandbox '{second}': 127\.0\.0\.1: connection refused"
        ):
            await bed.streams.dial(second, 8814)


async def test_one_that_leaves_leaves_nothing(bed: Any) -> None:
    pod = await bed.pod()
    async with bed.nothing_left():
        for wait_s in (0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006):
            calls = [asyncio.ensure_future(bed.streams.dial(pod, 9)) for _ in range(5)]
            await asyncio.sleep(wait_s)
            for call in calls[:3]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(r, asyncio.CancelledError | Unavailable) for r in results), results


async def test_bad_requests(bed: Any) -> None:
    pod = await bed.pod()
    for port in (0, -1, 65536):
        with pytest.raises(InvalidArgument, match="is not a port"):
            await bed.streams.dial(pod, port)
    with pytest.raises(NotFound):
        await bed.streams.dial("nope", 80)
    await stop_pod_sandbox(bed.node, pod)
    with pytest.raises(FailedPrecondition, match="NOTREADY"):
        await bed.streams.dial(pod, 80)
