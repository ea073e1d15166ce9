"""Who gets in, what is refused, what is bounded, what is left when clients vanish."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shim.daemon import wiring
from shim.daemon.config import Config, StreamingConfig
from shim.errors import FailedPrecondition, ResourceExhausted
from shim.model.streams import StreamOptions
from shim.streaming import server as server_module
from shim.streaming import spdy_frames, tokens, wire
from shim.streaming.limits import Limits
from shim.streaming.server import Settings, StreamingServer
from tests.integration.streaming.clients import (
    PATIENCE_S,
    Refused,
    request,
    spdy_client,
    status,
    websocket_client,
)
from tests.integration.streaming.conftest import Programs, descriptors, settled

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)
OUT = StreamOptions(stdout=True, stderr=True)
V4 = "v4.channel.k8s.io"
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
SOCKET = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ("Sec-WebSocket-Version", "13"),
]


async def refusal(
    url: str, headers: list[tuple[str, str]], method: str = "POST", tls: ssl.SSLContext | None = None
) -> Refused:
    with pytest.raises(Refused) as caught:
        await request(url, headers, method, tls)
    return caught.value


def test_urls_are_as_clients_expect_them() -> None:
    """One per kind; the token is 128 bits and of no other use."""

    async def urls() -> list[str]:
        server = StreamingServer(Programs())
        await server.start()
        try:
            return [
                server.exec_url("c", ("true",), OUT),
                server.attach_url("c", OUT),
                server.port_forward_url("s", ()),
            ]
        finally:
            await server.stop()

    for url, kind in zip(asyncio.run(urls()), ("exec", "attach", "portforward"), strict=True):
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname) == ("http", "127.0.0.1")
        assert parts.path.startswith(f"/{kind}/")
        assert len(parts.path.split("/")[2]) == 22


async def test_whoever_has_no_token_reaches_nothing(server: StreamingServer, programs: Programs) -> None:
    good = server.exec_url("c", ("true",), OUT)
    base = good.rpartition("/exec/")[0]
    for path in (
        "/exec/AAAAAAAAAAAAAAAAAAAAAA",
        "/exec/",
        "/exec",
        "/",
        "/exec/%00",
        good.replace(base, "") + "/x",
        "//exec/x",
    ):
        assert (await refusal(base + path, UPGRADE)).status == 404
    client = await spdy_client(good, V4)
    await client.close()
    assert (await refusal(good, UPGRADE)).status == 404
    assert programs.sessions == []


async def test_a_token_is_good_for_its_kind_alone(server: StreamingServer) -> None:
    url = server.exec_url("c", ("true",), OUT)
    assert (await refusal(url.replace("/exec/", "/attach/"), UPGRADE)).status == 404
    assert (await refusal(url, UPGRADE)).status == 404


async def test_a_token_expires(start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LIFETIME_S", 0.05)
    server = await start_server()
    url = server.exec_url("c", ("true",), OUT)
    await asyncio.sleep(0.1)
    assert (await refusal(url, UPGRADE)).status == 404


async def test_tokens_are_bounded(server: StreamingServer) -> None:
    for _ in range(tokens.MOST):
        server.exec_url("c", ("true",), OUT)
    with pytest.raises(ResourceExhausted):
        server.exec_url("c", ("true",), OUT)


@pytest.mark.parametrize(
    ("headers", "method", "answer"),
    [
        (UPGRADE, "PUT", 405),
        (UPGRADE, "DELETE", 405),
        ([], "POST", 400),
        ([("Upgrade", "SPDY/3.1")], "POST", 400),
        ([("Connection", "Upgrade")], "POST", 400),
        ([("Connection", "Upgrade"), ("Upgrade", "h2c")], "POST", 400),
        ([("Connection", "Upgrade"), ("Upgrade", "SPDY/2")], "POST", 400),
        ([*UPGRADE, ("X-Stream-Protocol-Version", "v9.channel.k8s.io")], "POST", 403),
        ([*UPGRADE, ("X-Stream-Protocol-Version", "portforward.k8s.io")], "POST", 403),
        (SOCKET, "POST", 400),
        ([header for header in SOCKET if header[0] != "Sec-WebSocket-Key"], "GET", 400),
        ([*SOCKET[:3], ("Sec-WebSocket-Version", "8")], "GET", 426),
        ([*SOCKET, ("Sec-WebSocket-Protocol", "v9.channel.k8s.io")], "GET", 403),
        ([*SOCKET, ("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io")], "GET", 403),
        ([*UPGRADE, ("X-Large", "x" * 20_000)], "POST", 431),
        ([*UPGRADE, ("Content-Length", "3")], "POST", 408),
        ([*UPGRADE, ("Content-Length", "-3")], "POST", 400),
    ],
)
async def test_bad_requests_are_refused_in_words(
    start_server: Callable[..., Any],
    programs: Programs,
    headers: list[tuple[str, str]],
    method: str,
    answer: int,
) -> None:
    limits = Limits(head_s=0.3) if answer == 408 else Limits()
    server = await start_server(Settings(limits=limits))
    refused = await refusal(server.exec_url("c", ("true",), OUT), headers, method)
    assert refused.status == answer
    assert len(refused.text.strip()) > 10
    assert programs.sessions == []


async def test_an_origin_is_of_no_matter(server: StreamingServer) -> None:
    for origin in ([], [("Origin", "null")], [("Origin", "http://elsewhere.example")]):
        headers = [*SOCKET, *origin, ("Sec-WebSocket-Protocol", "v5.channel.k8s.io")]
        _, writer, answer = await request(server.exec_url("c", ("true",), OUT), headers, "GET")
        assert answer.headers["sec-websocket-protocol"] == "v5.channel.k8s.io"
        writer.close()


async def test_a_client_that_names_no_protocol_speaks_the_first(server: StreamingServer) -> None:
    client = await spdy_client(server.exec_url("c", ("sh", "-c", "exit 3"), OUT))
    error, *_ = [await client.open(streamType=kind) for kind in ("error", "stdout", "stderr")]
    assert b"exit code 3" in await error.read_all()
    await client.close()
    socket = await websocket_client(server.exec_url("c", ("sh", "-c", "exit 3"), OUT))
    assert socket.protocol == ""
    assert b"exit code 3" in (await socket.collect())[3]
    await socket.close()


async def test_whoever_says_nothing_is_sent_away(start_server: Callable[..., Any]) -> None:
    server = await start_server(Settings(limits=Limits(head_s=0.2)))
    parts = urlsplit(server.exec_url("c", ("true",), OUT))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /exec/")
    assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_more_connections_than_allowed_are_refused(start_server: Callable[..., Any]) -> None:
    server = await start_server(Settings(limits=Limits(connections=3)))
    clients = [await spdy_client(server.exec_url("c", ("cat",), ALL), V4) for _ in range(3)]
    assert (await refusal(server.exec_url("c", ("true",), OUT), UPGRADE)).status == 503
    for client in clients:
        client.cut()
    await settled(lambda: not server._connections)
    client = await spdy_client(server.exec_url("c", ("true",), OUT), V4)
    client.cut()


async def test_streams_that_do_not_come_are_missed_in_words(
    start_server: Callable[..., Any], programs: Programs
) -> None:
    server = await start_server(Settings(limits=Limits(streams_s=1)))
    client = await spdy_client(server.exec_url("c", ("true",), ALL), V4)
    error, _out = [await client.open(streamType=kind) for kind in ("error", "stdout")]
    assert "stderr, stdin" in status(await error.read_all())["message"]
    await settled(client.closed.is_set)
    assert programs.sessions == []
    await client.close()


async def test_more_streams_than_allowed_are_broken_off(start_server: Callable[..., Any]) -> None:
    server = await start_server(Settings(limits=Limits(streams=4)))
    client = await spdy_client(server.port_forward_url("s", ()), "portforward.k8s.io")
    streams = [await client.open(streamType="data", port="80", requestID=str(n)) for n in range(8)]
    assert [stream.broken for stream in streams] == [False] * 4 + [True] * 4
    await client.close()


async def test_a_connection_on_which_nothing_moves_ends(
    start_server: Callable[..., Any], programs: Programs
) -> None:
    server = await start_server(Settings(limits=Limits(idle_s=2)))
    busy = await spdy_client(server.exec_url("c", ("sh", "-c", "while sleep 0.1; do echo x; done"), OUT), V4)
    quiet = await spdy_client(server.exec_url("c", ("cat",), ALL), V4)
    stuck = await spdy_client(server.exec_url("c", ("cat", "/dev/zero"), OUT), V4)
    for client, kinds in ((busy, ()), (quiet, ("stdin",)), (stuck, ())):
        for kind in ("error", *kinds, "stdout", "stderr"):
            await client.open(streamType=kind)
    stuck.reading.cancel()
    await settled(lambda: len(programs.sessions) == 3 and [p.closed for p in programs.sessions] == [0, 1, 1])
    await asyncio.sleep(2.5)
    assert programs.sessions[0].closed == 0
    for client in (busy, quiet, stuck):
        client.cut()


@pytest.mark.parametrize(
    "frame",
    [
        b"\x80\x03\x00\x06\x00\xff\xff\xff",
        b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01",
        spdy_frames.control(spdy_frames.Type.SYN_STREAM, b"\0\0\0\1" + bytes(6) + b"rubbish"),
    ],
)
async def test_who_does_not_speak_spdy_is_told_and_left(
    server: StreamingServer, programs: Programs, frame: bytes
) -> None:
    client = await spdy_client(server.exec_url("c", ("true",), OUT), V4)
    client.wire.write(frame)
    await asyncio.wait_for(client.closed.wait(), PATIENCE_S)
    assert client.went_away == spdy_frames.GoAway.PROTOCOL_ERROR
    assert programs.sessions == []
    await client.close()


@pytest.mark.parametrize(
    ("protocol", "raw", "code"),
    [
        (V4, b"\x82\x01x", 1002),  # not masked
        (V4, b"\x83\x80\0\0\0\0", 1002),  # no such kind of frame
        (V4, b"\x82\xff\0\0\0\0\x01\0\0\0\0\0\0\0" + bytes(2 << 20), 1009),
        ("v5.channel.k8s.io", b"\x82\x81\0\0\0\0\xff", 1007),
        ("v4.base64.channel.k8s.io", b"\x81\x82\0\0\0\0x?", 1007),
        ("v4.base64.channel.k8s.io", b"\x81\x82\0\0\0\0\x30?", 1007),
    ],
)
async def test_who_does_not_speak_websocket_is_told_and_left(
    start_server: Callable[..., Any], programs: Programs, protocol: str, raw: bytes, code: int
) -> None:
    server = await start_server(Settings(limits=Limits(message_bytes=1 << 20)))
    client = await websocket_client(server.exec_url("c", ("cat",), ALL), protocol)
    client.plain.write(raw)
    await client.collect()
    assert client.close_code == code
    await client.close()
    await settled(lambda: all(session.closed for session in programs.sessions))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Return a certificate of 127.0.0.1 and its key."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=x"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls(start_server: Callable[..., Any], certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    trusting = ssl.create_default_context(cafile=cert)
    config = Config(streaming=StreamingConfig(tls_cert=cert, tls_key=key))
    server = await start_server(wiring.streaming_settings(config))
    url = server.exec_url("c", ("cat",), ALL)
    assert url.startswith("https://127.0.0.1:")
    client = await spdy_client(url, V4, tls=trusting)
    error, stdin, out, _ = [await client.open(streamType=k) for k in ("error", "stdin", "stdout", "stderr")]
    sending = asyncio.ensure_future(stdin.write(bytes(5_000_000)))
    got = 0
    while got < 5_000_000:
        got += len(await out.read())
    await sending
    await stdin.finish()
    assert status(await error.read_all())["status"] == "Success"
    await client.close()
    socket = await websocket_client(
        server.exec_url("c", ("echo", "x"), OUT), "v5.channel.k8s.io", tls=trusting
    )
    assert (await socket.collect())[1] == b"x\n"
    await socket.close()


def test_a_certificate_that_cannot_be_used_is_named(certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    for asked in (StreamingConfig(tls_cert=key, tls_key=cert), StreamingConfig(tls_cert=cert, tls_key="/no")):
        with pytest.raises(FailedPrecondition, match="tls_cert"):
            wiring.streaming_settings(Config(streaming=asked))


async def test_without_tls_a_client_of_tls_is_sent_away_and_the_other_way_round(
    start_server: Callable[..., Any], certificate: tuple[Path, Path], programs: Programs
) -> None:
    cert, key = map(str, certificate)
    trusting = ssl.create_default_context(cafile=cert)
    plain = await start_server()
    secret = await start_server(
        wiring.streaming_settings(Config(streaming=StreamingConfig(tls_cert=cert, tls_key=key)))
    )
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await request(plain.exec_url("c", ("true",), OUT), UPGRADE, tls=trusting)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await request(secret.exec_url("c", ("true",), OUT).replace("https:", "http:"), UPGRADE)
    assert programs.sessions == []


async def test_a_server_that_stops_ends_its_sessions(
    start_server: Callable[..., Any], programs: Programs
) -> None:
    server = await start_server()
    client = await spdy_client(server.exec_url("c", ("sleep", "60"), OUT), V4)
    for kind in ("error", "stdout", "stderr"):
        await client.open(streamType=kind)
    await settled(lambda: programs.sessions)
    await server.stop()
    assert programs.sessions[0].closed
    await asyncio.wait_for(client.closed.wait(), PATIENCE_S)
    await client.close()


async def test_attach_tells_no_exit_code(server: StreamingServer, programs: Programs) -> None:
    programs.container = ("sh", "-c", "cat; exit 5")
    client = await spdy_client(server.attach_url("c", ALL), V4)
    error, stdin, out, _ = [await client.open(streamType=k) for k in ("error", "stdin", "stdout", "stderr")]
    await stdin.write(b"hello")
    assert await out.read_until(b"hello")
    await stdin.finish()
    assert status(await error.read_all()) == {"metadata": {}, "status": "Success"}
    await client.close()


async def test_clients_that_are_cut_at_any_point_leave_nothing(
    server: StreamingServer, programs: Programs
) -> None:
    """The fixture sees what is left."""
    chance = random.Random(7)  # noqa: S311

    async def one(number: int) -> None:
        await asyncio.sleep(chance.random())
        argv = (("cat",), ("cat", "/dev/zero"), ("sleep", "60"), ("sh", "-c", "echo x; read y"))[number % 4]
        url = server.exec_url("c", argv, ALL)
        if number % 3 == 0:
            socket = await websocket_client(url, "v5.channel.k8s.io")
            flood = asyncio.ensure_future(socket.send(b"\0" + bytes(3 << 20)))
            await asyncio.sleep(chance.random() * 0.1)
            flood.cancel()
            socket.cut()
            return
        client = await spdy_client(url, V4)
        opening = asyncio.ensure_future(_open_and_write(client))
        await asyncio.sleep(chance.random() * 0.1)
        opening.cancel()
        client.cut()

    await asyncio.gather(*(one(number) for number in range(60)))
    await settled(lambda: not server._connections)
    assert len([link for link in descriptors().values() if "pipe" in link]) < 30
    assert json.dumps([session.closed for session in programs.sessions]).count("0") == 0


async def test_what_many_connections_leave_in_circles_is_collected(
    server: StreamingServer, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shim.streaming.server._TRIM_S", 0.05)

    def left() -> int:
        return sum(isinstance(each, wire.Tcp) for each in gc.get_objects())

    gc.disable()
    try:
        for _ in range(20):
            client = await spdy_client(server.exec_url("c", ("cat",), ALL), V4)
            opening = asyncio.ensure_future(_open_and_write(client))
            await asyncio.sleep(0.01)
            opening.cancel()
            client.cut()
        await settled(lambda: not server._connections)
        await settled(lambda: left() < server_module._MANY)
    finally:
        gc.enable()


async def _open_and_write(client: Any) -> None:
    for kind in ("error", "stdin", "stdout", "stderr"):
        stream = await client.open(streamType=kind)
        if kind == "stdin":
            await stream.write(bytes(100_000))


async def test_a_client_that_is_killed_behind_unread_input_is_noticed(
    server: StreamingServer, programs: Programs
) -> None:
    """Its end stands behind what nobody reads; a sign of life that cannot be sent shows it."""
    url = server.exec_url("c", ("sleep", "60"), ALL)
    script = Path(__file__).with_name("flood.py")
    client = await asyncio.create_subprocess_exec("python3", str(script), url, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    assert await client.stdout.readline() == b"full\n"
    client.kill()
    await client.wait()
    client._transport.close()  # type: ignore[attr-defined]
    await settled(lambda: programs.sessions and programs.sessions[0].closed)
