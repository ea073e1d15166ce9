import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from shim.api.metrics_server import MetricsServer, split_address
from shim.errors import FailedPrecondition

OPENMETRICS = b"application/openmetrics-text; version=1.0.0"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MetricsServer]:
    registry = CollectorRegistry()
    Counter("apples", "That were eaten.", registry=registry).inc(7)
    made = MetricsServer(registry, str(tmp_path / "m.sock"))
    await made.start()
    yield made
    await made.stop()
    assert not (tmp_path / "m.sock").exists()


async def ask(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_socket_that_was_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left, file = tmp_path / "left.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(left))
    made = MetricsServer(CollectorRegistry(), str(left))
    await made.start()
    assert b"200" in await ask(left, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await made.stop()
    file.write_text("kept")
    with pytest.raises(FailedPrecondition, match=r"change metrics\.address"):
        await MetricsServer(CollectorRegistry(), str(file)).start()
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    ("request_", "status", "part"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"apples_total 7.0"),
        (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + OPENMETRICS + b"\r\n\r\n",
            b"200",
            b"# EOF",
        ),
        (b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"apples_total 7.0"),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", b"404", b"only /metrics"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405", b"only GET"),
    ],
)
async def test_answers(
    server: MetricsServer, tmp_path: Path, request_: bytes, status: bytes, part: bytes
) -> None:
    answer = await ask(tmp_path / "m.sock", request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert part in answer


@pytest.mark.parametrize("rubbish", [b"\0\1\2\r\n\r\n", b"GET " + b"a" * 100_000, b"GET /metrics\r\n\r\n"])
async def test_rubbish_gets_no_answer(server: MetricsServer, tmp_path: Path, rubbish: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it may hang up before all was sent
        assert not (await ask(tmp_path / "m.sock", rubbish)).startswith(b"HTTP/1.1 200")
    assert b"200" in await ask(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_an_address_that_cannot_be_used_is_named(server: MetricsServer, tmp_path: Path) -> None:
    other = MetricsServer(CollectorRegistry(), str(tmp_path / "no/such/directory"))
    with pytest.raises(FailedPrecondition, match=r"change metrics\.address"):
        await other.start()


@pytest.mark.parametrize(
    ("text", "where"),
    [("/run/m.sock", "/run/m.sock"), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9494", ("::1", 9494))],
)
def test_addresses(text: str, where: object) -> None:
    assert split_address(text) == where
