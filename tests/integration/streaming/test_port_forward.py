"""Port-forward: pairs of SPDY streams, SPDY in a WebSocket, channels of a WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from shim.streaming import inbox
from shim.streaming.limits import Limits
from shim.streaming.server import Settings, StreamingServer
from tests.integration.streaming.clients import (
    PATIENCE_S,
    Refused,
    SpdyClient,
    Stream,
    spdy_client,
    tunnel_client,
    websocket_client,
)
from tests.integration.streaming.conftest import Programs, settled

NAME = "portforward.k8s.io"
FLOOD = 32 << 20


async def connect(server: StreamingServer, transport: str) -> SpdyClient:
    url = server.port_forward_url("s", ())
    return await (tunnel_client(url) if transport == "tunnel" else spdy_client(url, NAME))


async def pair(client: SpdyClient, port: int, request: int | None = 0) -> tuple[Stream, Stream]:
    """Open a connection as kubectl does: the error stream first, of which it ends its side."""
    headers = {"port": str(port)} | ({} if request is None else {"requestID": str(request)})
    error = await client.open(streamType="error", **headers)
    await error.finish()
    return error, await client.open(streamType="data", **headers)


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port that refuses connections: nobody listens, and nobody else can get it meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("transport", ["spdy", "tunnel"])
async def test_fifty_connections_at_once_carry_much_both_ways(
    server: StreamingServer, echo_port: int, transport: str
) -> None:
    client, total, count = await connect(server, transport), 64 << 20, 50
    share = total // count

    async def one(request: int) -> None:
        error, data = await pair(client, echo_port, request)
        sent, got, left = hashlib.sha256(), hashlib.sha256(), share

        async def receive() -> None:
            async for part in data.all():
                got.update(part)

        receiving = asyncio.ensure_future(receive())
        while left:
            part = os.urandom(min(left, 32768))
            sent.update(part)
            await data.write(part)
            left -= len(part)
        await data.finish()
        await receiving
        assert got.digest() == sent.digest()
        assert await error.read_all() == b""

    await asyncio.gather(*(one(request) for request in range(count)))
    assert client.connection._streams == {}
    await client.close()


async def test_streams_without_a_request_number_belong_together(
    server: StreamingServer, echo_port: int
) -> None:
    client = await connect(server, "spdy")
    for _ in range(3):
        _error, data = await pair(client, echo_port, None)
        await data.write(b"x")
        assert await data.read_until(b"x")
    await client.close()


@pytest.mark.parametrize("transport", ["spdy", "tunnel"])
async def test_a_refused_port_is_told_on_its_error_stream_alone(
    server: StreamingServer, echo_port: int, refused_port: int, transport: str
) -> None:
    client = await connect(server, transport)
    _, good = await pair(client, echo_port, 1)
    error, data = await pair(client, refused_port, 2)
    assert f"port {refused_port}: connection refused".encode() in await error.read_all()
    assert await data.read_all() == b""
    await good.write(b"still")
    assert await good.read_until(b"still")
    await client.close()


async def test_a_reset_in_the_pod_is_told_on_its_error_stream_alone(
    server: StreamingServer, echo_port: int
) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    listening = await asyncio.start_server(reset, "127.0.0.1", 0)
    client = await connect(server, "spdy")
    _, good = await pair(client, echo_port, 1)
    error, data = await pair(client, listening.sockets[0].getsockname()[1], 2)
    await data.write(b"xx")
    assert b"onnection reset by peer" in await error.read_all()
    await good.write(b"still")
    assert await good.read_until(b"still")
    await client.close()
    listening.close()


async def test_the_end_in_the_pod_is_no_failure(server: StreamingServer, programs: Programs) -> None:
    """A client breaks its stream off when the pod has ended the connection; an error would end all of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"answer")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = await connect(server, "spdy")
    for request in range(5):
        error, data = await pair(client, listening.sockets[0].getsockname()[1], request)
        await data.write(b"x")
        assert await data.read_all() == b"answer"
        if request % 2:
            await data.write(b"too late" * 1000)
        await data.reset()
        assert await error.read_all() == b""
    assert client.connection._streams == {}
    await client.close()
    listening.close()


async def test_a_client_may_end_its_direction_first(server: StreamingServer) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        await asyncio.sleep(1.2)
        writer.write(asked[::-1])
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = await connect(server, "spdy")
    error, data = await pair(client, listening.sockets[0].getsockname()[1])
    await data.write(b"abc")
    await data.finish()
    assert await data.read_all() == b"cba"
    assert await error.read_all() == b""
    await client.close()
    listening.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamType": "data"},
        {"streamType": "data", "port": "0"},
        {"streamType": "data", "port": "65536"},
        {"streamType": "data", "port": "x"},
        {"streamType": "stdin", "port": "80"},
        {"port": "80"},
    ],
)
async def test_a_stream_that_makes_no_sense_is_broken_off_alone(
    server: StreamingServer, echo_port: int, headers: dict[str, str]
) -> None:
    client = await connect(server, "spdy")
    bad = await client.open(**headers)
    await settled(lambda: bad.broken)
    _, data = await pair(client, echo_port)
    await data.write(b"x")
    assert await data.read_until(b"x")
    await client.close()


async def test_two_streams_of_a_kind_are_no_pair(server: StreamingServer, programs: Programs) -> None:
    client = await connect(server, "spdy")
    one = await client.open(streamType="data", port="80", requestID="1")
    other = await client.open(streamType="data", port="80", requestID="1")
    await settled(lambda: one.broken and other.broken)
    assert programs.dialled == 0
    await client.close()


async def test_half_a_pair_is_given_up(start_server: Callable[..., Any]) -> None:
    server = await start_server(Settings(limits=Limits(streams_s=0.2)))
    client = await connect(server, "spdy")
    error = await client.open(streamType="error", port="80", requestID="1")
    data = await client.open(streamType="data", port="80", requestID="2")
    await settled(lambda: error.ended and data.ended)
    assert b"data stream" in b"".join(error.parts)
    await client.close()


async def test_channels_of_a_websocket_begin_with_their_port(
    server: StreamingServer, echo_port: int, refused_port: int
) -> None:
    url = server.port_forward_url("s", (echo_port, refused_port))
    client = await websocket_client(url, "v4.channel.k8s.io")
    prefix = {n: port.to_bytes(2, "little") for n, port in ((0, echo_port), (2, refused_port))}
    await client.send(b"\0hello")
    seen: dict[int, bytes] = {}
    async with asyncio.timeout(PATIENCE_S):
        while b"hello" not in seen.get(0, b"") or b"refused" not in seen.get(3, b""):
            message = await client.receive()
            assert isinstance(message, bytes)
            seen[message[0]] = seen.get(message[0], b"") + message[1:]
    assert seen[0] == prefix[0] + b"hello"
    assert seen[1] == prefix[0]
    assert seen[2] == prefix[2]
    assert seen[3].startswith(prefix[2])
    await client.close()


async def test_a_websocket_ends_when_the_pod_has_ended_every_connection(server: StreamingServer) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = await websocket_client(server.port_forward_url("s", (port,)), "v4.base64.channel.k8s.io")
    channels = await client.collect()
    assert channels[0][2:] == b"bye"
    assert client.close_code == 1000
    await client.close()
    listening.close()


async def test_ports_must_be_known_for_channels_of_a_websocket(server: StreamingServer) -> None:
    with pytest.raises(Refused) as caught:
        await websocket_client(server.port_forward_url("s", ()), "v4.channel.k8s.io")
    assert caught.value.status == 403
    assert "SPDY/3.1+portforward.k8s.io" in caught.value.text


async def test_a_slow_connection_hinders_none_of_another_client(
    server: StreamingServer, echo_port: int
) -> None:
    stuck = socket.create_server(("127.0.0.1", 0))
    slow, fast = await connect(server, "spdy"), await connect(server, "spdy")
    _, blocked = await pair(slow, stuck.getsockname()[1])
    flood = asyncio.ensure_future(blocked.write(bytes(32 << 20)))
    await asyncio.sleep(0.2)
    _, data = await pair(fast, echo_port)
    async with asyncio.timeout(PATIENCE_S):
        await data.write(b"x" * 100_000)
        await data.finish()
        assert len(await data.read_all()) == 100_000
    assert not flood.done()
    flood.cancel()
    slow.cut()
    await fast.close()
    stuck.close()


@pytest.mark.parametrize("transport", ["spdy", "tunnel"])
async def test_what_is_sent_to_a_connection_that_is_over_holds_up_none(
    server: StreamingServer, echo_port: int, refused_port: int, transport: str
) -> None:
    client = await connect(server, transport)
    _, other = await pair(client, echo_port, 1)
    error, refused = await pair(client, refused_port, 2)
    assert b"refused" in await error.read_all()
    with suppress(KeyError):
        await asyncio.wait_for(_flood(refused), PATIENCE_S)
    await other.write(b"still here")
    assert await other.read_until(b"still here")
    await client.close()


async def test_what_is_sent_to_a_port_that_is_over_holds_up_no_other_of_a_websocket(
    server: StreamingServer, echo_port: int, refused_port: int
) -> None:
    url = server.port_forward_url("s", (echo_port, refused_port))
    client = await websocket_client(url, "v4.channel.k8s.io")
    received = b""
    while b"refused" not in received:
        received = await client.receive()  # type: ignore[assignment]
    for _ in range(FLOOD // 32768):
        await asyncio.wait_for(client.send(b"\2" + bytes(32768)), PATIENCE_S)
    await client.send(b"\0still here")
    async with asyncio.timeout(PATIENCE_S):
        while b"still here" not in received:
            received = await client.receive()  # type: ignore[assignment]
    await client.close()


@pytest.mark.parametrize("transport", ["spdy", "tunnel"])
async def test_a_connection_that_stands_still_holds_up_others_for_a_while_only(
    start_server: Callable[..., Any], echo_port: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client keeps no windows, so all wait behind it, until it is broken off, without a word."""
    monkeypatch.setattr(inbox, "_PROBE_S", 0.05)
    server = await start_server(Settings(limits=Limits(still_s=0.3)))
    stuck = socket.create_server(("127.0.0.1", 0))
    client = await connect(server, transport)
    _, other = await pair(client, echo_port, 1)
    error, blocked = await pair(client, stuck.getsockname()[1], 2)
    flood = asyncio.ensure_future(_flood(blocked))
    await settled(lambda: blocked.broken)
    with suppress(KeyError):  # its stream is gone
        await flood
    await other.write(b"still here")
    assert await other.read_until(b"still here")
    assert await error.read_all() == b""
    await client.close()
    stuck.close()


async def test_a_connection_that_stands_still_alone_may_take_its_time(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "_PROBE_S", 0.02)
    server = await start_server(Settings(limits=Limits(still_s=0.02)))
    slow = socket.create_server(("127.0.0.1", 0))
    client = await connect(server, "spdy")
    _, data = await pair(client, slow.getsockname()[1], 1)
    flood = asyncio.ensure_future(_flood(data))
    await asyncio.sleep(0.5)
    assert not flood.done()
    sock, _ = await asyncio.to_thread(slow.accept)
    with sock:
        got = 0
        while got < FLOOD:
            got += len(await asyncio.to_thread(sock.recv, 1 << 20))
    await flood
    assert not data.broken
    await client.close()
    slow.close()


async def test_clients_that_are_cut_leave_nothing(server: StreamingServer, echo_port: int) -> None:
    """The fixture sees what is left."""
    chance = random.Random(4)  # noqa: S311

    async def one(number: int) -> None:
        client = await connect(server, "tunnel" if number % 2 else "spdy")
        busy = [asyncio.ensure_future(_busy(client, echo_port, request)) for request in range(3)]
        await asyncio.sleep(chance.random() * 0.2)
        client.cut()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    await asyncio.gather(*(one(number) for number in range(30)))


async def _busy(client: SpdyClient, port: int, request: int) -> None:
    with suppress(OSError, KeyError, TimeoutError):
        _, data = await pair(client, port, request)
        while True:
            await data.write(bytes(10_000))
            await data.read()


async def _flood(stream: Stream) -> None:
    """Send more than all buffers take, in frames as kubectl's."""
    for _ in range(FLOOD // 32768):
        await stream.write(bytes(32768))
