"""Exec over SPDY and WebSocket: streams, ends, exit codes, terminals."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from typing import Any

import pytest

from shim.errors import ExecFailed
from shim.model.streams import StreamOptions
from shim.streaming import server as server_module
from shim.streaming import wire
from shim.streaming.server import StreamingServer
from tests.integration.streaming.clients import (
    PATIENCE_S,
    SpdyClient,
    Stream,
    spdy_client,
    status,
    websocket_client,
)
from tests.integration.streaming.conftest import Programs, settled

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)
OUT = StreamOptions(stdout=True, stderr=True)
TTY = StreamOptions(stdin=True, stdout=True, tty=True)
V4 = "v4.channel.k8s.io"
SPDY = ("v5.channel.k8s.io", V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
WEBSOCKET = ("v5.channel.k8s.io", V4, "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io")


async def streams(client: SpdyClient, *kinds: str) -> list[Stream]:
    return [await client.open(streamType=kind) for kind in kinds]


@pytest.mark.parametrize("protocol", SPDY)
async def test_output_and_exit_code_over_spdy(server: StreamingServer, protocol: str) -> None:
    url = server.exec_url("c", ("sh", "-c", "echo out; echo err >&2; exit 7"), OUT)
    client = await spdy_client(url, protocol)
    assert client.protocol == protocol
    error, out, err = await streams(client, "error", "stdout", "stderr")
    assert (await out.read_all(), await err.read_all()) == (b"out\n", b"err\n")
    told = await error.read_all()
    if protocol in SPDY[:2]:
        assert status(told)["reason"] == "NonZeroExitCode"
        assert status(told)["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    else:
        assert b"exit code 7" in told
    await asyncio.wait_for(client.closed.wait(), PATIENCE_S)
    assert client.went_away == 0
    await client.close()


@pytest.mark.parametrize("protocol", WEBSOCKET)
async def test_output_and_exit_code_over_websocket(server: StreamingServer, protocol: str) -> None:
    url = server.exec_url("c", ("sh", "-c", "echo out; echo err >&2; exit 7"), OUT)
    client = await websocket_client(url, protocol)
    assert client.protocol == protocol
    channels = await client.collect()
    assert (channels[1], channels[2]) == (b"out\n", b"err\n")
    assert client.close_code == 1000
    if protocol in WEBSOCKET[:3]:
        assert status(channels[3])["details"]["causes"][0]["message"] == "7"
    else:
        assert b"exit code 7" in channels[3]
    await client.close()


async def test_success_is_told(server: StreamingServer) -> None:
    client = await spdy_client(server.exec_url("c", ("true",), OUT), V4)
    error, *_ = await streams(client, "error", "stdout", "stderr")
    assert status(await error.read_all())["status"] == "Success"
    await client.close()


async def test_input_comes_and_ends_over_spdy(server: StreamingServer) -> None:
    client = await spdy_client(server.exec_url("c", ("cat",), ALL), V4)
    error, stdin, out, _err = await streams(client, "error", "stdin", "stdout", "stderr")
    await stdin.write(b"hello ")
    assert await out.read_until(b"hello ") == b"hello "
    await stdin.write(b"world")
    await stdin.finish()
    assert await out.read_all() == b"world"
    assert status(await error.read_all())["status"] == "Success"
    await client.close()


async def test_input_comes_and_ends_over_websocket(server: StreamingServer) -> None:
    client = await websocket_client(server.exec_url("c", ("cat",), ALL), "v5.channel.k8s.io")
    await client.send(b"\x00hello")
    await client.send(b"\xff\x00")
    channels = await client.collect()
    assert channels[1] == b"hello"
    assert status(channels[3])["status"] == "Success"
    await client.close()


async def test_a_web_page_that_sends_text_is_understood(server: StreamingServer) -> None:
    client = await websocket_client(server.exec_url("c", ("head", "-c", "5"), ALL), V4)
    await client.send("\x00hällo")
    assert (await client.collect())[1] == b"h\xc3\xa4ll"
    await client.close()


async def test_empty_messages_are_nothing(server: StreamingServer) -> None:
    client = await websocket_client(server.exec_url("c", ("head", "-c", "1"), ALL), V4)
    await client.send(b"")
    await client.send(b"\x00x")
    assert (await client.collect())[1] == b"x"
    await client.close()


@pytest.mark.parametrize("transport", [spdy_client, websocket_client])
async def test_a_missing_program_is_an_error_of_the_error_channel(
    server: StreamingServer, programs: Programs, transport: Any
) -> None:
    client = await transport(server.exec_url("c", ("/no/such/program",), OUT), V4)
    if transport is spdy_client:
        error, *_ = await streams(client, "error", "stdout", "stderr")
        told = await error.read_all()
    else:
        told = (await client.collect())[3]
    assert status(told)["status"] == "Failure"
    assert "no such file" in status(told)["message"]
    await client.close()


@pytest.mark.parametrize("protocol", SPDY)
async def test_a_failure_is_text_before_version_4(
    server: StreamingServer, programs: Programs, protocol: str
) -> None:
    programs.failure = ExecFailed("exec: not there")
    client = await spdy_client(server.exec_url("c", ("x",), OUT), protocol)
    error, *_ = await streams(client, "error", "stdout", "stderr")
    told = await error.read_all()
    assert b"exec: not there" in told
    assert told.startswith(b"{") == (protocol in SPDY[:2])
    await client.close()


async def test_a_session_whose_end_cannot_be_told_is_a_failure(
    server: StreamingServer, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(_: Any) -> int:
        raise ExecFailed("the container is gone")

    monkeypatch.setattr("tests.integration.streaming.conftest.Program.wait", wait)
    client = await spdy_client(server.exec_url("c", ("true",), OUT), V4)
    error, *_ = await streams(client, "error", "stdout", "stderr")
    assert "the container is gone" in status(await error.read_all())["message"]
    await client.close()


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_terminal_has_its_size_before_the_first_byte(
    server: StreamingServer, programs: Programs, transport: str
) -> None:
    url = server.exec_url("c", ("sh", "-c", "read x; stty size; exit 3"), TTY)
    size = b'{"Width":101,"Height":33}'
    if transport == "spdy":
        client = await spdy_client(url, V4)
        error, stdin, out, resize = await streams(client, "error", "stdin", "stdout", "resize")
        await resize.write(size)
        await settled(lambda: programs.sessions and programs.sessions[0].sizes)
        await stdin.write(b"\n")
        assert b"33 101" in await out.read_all()
        assert status(await error.read_all())["details"]["causes"][0]["message"] == "3"
        await client.close()
    else:
        socket = await websocket_client(url, "v5.channel.k8s.io")
        await socket.send(b"\x04" + size)
        await settled(lambda: programs.sessions and programs.sessions[0].sizes)
        await socket.send(b"\x00\n")
        assert b"33 101" in (await socket.collect())[1]
        await socket.close()
    assert programs.sessions[0].sizes == [(101, 33)]


@pytest.mark.parametrize(
    "rubbish", [b"nonsense", b'{"Width":"x"}', b"\xff\xfe", b'{"Width":0,"Height":0}', b"[1]"]
)
async def test_a_resize_that_makes_no_sense_changes_nothing(
    server: StreamingServer, programs: Programs, rubbish: bytes
) -> None:
    client = await spdy_client(server.exec_url("c", ("head", "-n", "1"), TTY), V4)
    error, stdin, out, resize = await streams(client, "error", "stdin", "stdout", "resize")
    await resize.write(rubbish)
    await stdin.write(b"still here\n")
    assert b"still here" in await out.read_all()
    assert status(await error.read_all())["status"] == "Success"
    assert programs.sessions[0].sizes == []
    await client.close()


async def test_a_resize_of_no_terminal_is_refused_alone(server: StreamingServer, programs: Programs) -> None:
    client = await spdy_client(server.exec_url("c", ("cat",), ALL), V4)
    error, stdin, out, _err, resize = await streams(client, "error", "stdin", "stdout", "stderr", "resize")
    await settled(lambda: resize.broken)
    await stdin.write(b"x")
    await stdin.finish()
    assert await out.read_all() == b"x"
    assert status(await error.read_all())["status"] == "Success"
    socket = await websocket_client(server.exec_url("c", ("true",), OUT), V4)
    await socket.send(b'\x04{"Width":1,"Height":1}')
    assert status((await socket.collect())[3])["status"] == "Success"
    assert not any(session.sizes for session in programs.sessions)
    await client.close()
    await socket.close()


@pytest.mark.parametrize("kind", ["nonsense", "", "stdout"])
async def test_a_stream_that_nobody_asked_for_is_broken_off_alone(server: StreamingServer, kind: str) -> None:
    client = await spdy_client(server.exec_url("c", ("echo", "x"), OUT), V4)
    error, out = await streams(client, "error", "stdout")
    extra = await client.open(streamType=kind)
    await settled(lambda: extra.broken)
    await client.open(streamType="stderr")
    assert await out.read_all() == b"x\n"
    assert status(await error.read_all())["status"] == "Success"
    await client.close()


async def test_children_in_the_background_do_not_keep_the_client(server: StreamingServer) -> None:
    client = await spdy_client(server.exec_url("c", ("sh", "-c", "sleep 1000 & echo $!"), OUT), V4)
    error, out, _err = await streams(client, "error", "stdout", "stderr")
    async with asyncio.timeout(PATIENCE_S):
        child = int(await out.read_all())
        assert status(await error.read_all())["status"] == "Success"
    os.kill(child, signal.SIGKILL)
    await client.close()


async def test_a_program_that_does_not_read_hinders_nobody(
    server: StreamingServer, programs: Programs
) -> None:
    """Its client sends far more than anybody keeps; others, and its own output, go on."""
    slow = await spdy_client(server.exec_url("c", ("sh", "-c", "echo up; sleep 60"), ALL), V4)
    _error, stdin, out, _err = await streams(slow, "error", "stdin", "stdout", "stderr")
    flood = asyncio.ensure_future(stdin.write(bytes(64 << 20)))
    assert await out.read_until(b"up\n") == b"up\n"
    fast = await spdy_client(server.exec_url("c", ("head", "-c", "1000000", "/dev/zero"), OUT), V4)
    _, fast_out, _ = await streams(fast, "error", "stdout", "stderr")
    async with asyncio.timeout(PATIENCE_S):
        assert len(await fast_out.read_all()) == 1_000_000
    assert not flood.done()
    flood.cancel()
    slow.cut()
    await settled(lambda: programs.sessions[0].closed)
    await fast.close()


async def test_a_client_that_leaves_in_the_middle_of_its_input_is_noticed(
    server: StreamingServer, programs: Programs
) -> None:
    """It hangs up in order, but what it has sent stands before that, and the program does not read."""
    client = await spdy_client(server.exec_url("c", ("sleep", "60"), ALL), V4)
    _error, stdin, *_ = await streams(client, "error", "stdin", "stdout", "stderr")
    flood = asyncio.ensure_future(stdin.write(bytes(64 << 20)))
    await asyncio.sleep(0.5)
    assert not flood.done()
    flood.cancel()
    client.reading.cancel()
    client.wire.writer.transport.abort()
    await settled(lambda: programs.sessions[0].closed)


async def test_a_client_that_does_not_read_hinders_nobody(
    server: StreamingServer, programs: Programs
) -> None:
    slow = await spdy_client(server.exec_url("c", ("cat", "/dev/zero"), OUT), V4)
    await streams(slow, "error", "stdout", "stderr")
    slow.reading.cancel()
    fast = await spdy_client(server.exec_url("c", ("head", "-c", "30000000", "/dev/zero"), OUT), V4)
    _, out, _ = await streams(fast, "error", "stdout", "stderr")
    async with asyncio.timeout(PATIENCE_S):
        assert sum([len(part) async for part in out.all()]) == 30_000_000
    await fast.close()
    slow.cut()
    await settled(lambda: programs.sessions[0].closed)


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_who_reads_the_end_late_gets_all_of_it(
    server: StreamingServer, programs: Programs, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """As the user of a pager does; nothing is drained, so much is left here when the program has ended."""

    async def drain(_: wire.Tcp) -> None:
        pass

    monkeypatch.setattr(wire.Tcp, "drain", drain)
    monkeypatch.setattr(wire, "_LINGER_S", 0.05)
    monkeypatch.setattr(server_module, "_CLOSE_S", 0.05)
    size = 48 << 20
    url = server.exec_url("c", ("sh", "-c", f"head -c {size} /dev/zero; exit 3"), OUT)
    if transport == "spdy":
        client = await spdy_client(url, V4)
        error, out, _err = await streams(client, "error", "stdout", "stderr")
        reader = client.wire.reader
    else:
        socket = await websocket_client(url, V4)
        reader = socket.plain.reader
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await settled(lambda: programs.sessions and programs.sessions[0].closed)
    await asyncio.sleep(0.5)
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    if transport == "spdy":
        assert sum([len(part) async for part in out.all()]) == size
        told = await error.read_all()
        await client.close()
    else:
        channels = await socket.collect()
        assert len(channels[1]) == size
        told = channels[3]
        await socket.close()
    assert status(told)["details"]["causes"][0]["message"] == "3"


@pytest.mark.parametrize("transport", ["spdy", "spdy with windows", "websocket"])
async def test_much_passes_both_ways_unchanged(server: StreamingServer, transport: str) -> None:
    block = bytes(range(256)) * 1024
    size, digest = 64 << 20, hashlib.sha256(block * 256).hexdigest()
    url = server.exec_url("c", ("cat",), ALL)
    got = hashlib.sha256()
    if transport == "websocket":
        socket = await websocket_client(url, "v5.channel.k8s.io")

        async def send() -> None:
            for _ in range(size // len(block)):
                await socket.send(b"\0" + block)
            await socket.send(b"\xff\0")

        sending = asyncio.ensure_future(send())
        while (message := await socket.receive()) is not None:
            if message[0] == 1:
                got.update(message[1:])  # type: ignore[arg-type]
        await socket.close()
    else:
        client = await spdy_client(url, V4, initial_window=1 << 17 if "windows" in transport else None)
        _error, stdin, out, _err = await streams(client, "error", "stdin", "stdout", "stderr")

        async def send() -> None:
            for _ in range(size // len(block)):
                await stdin.write(block)
            await stdin.finish()

        sending = asyncio.ensure_future(send())
        async for part in out.all():
            got.update(part)
        await client.close()
    await sending
    assert got.hexdigest() == digest
