import asyncio
import os
import socket
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, KernelError, NotFound, Unavailable
from shim.services import socket_stock
from shim.services.sandboxes.port_forward import Dialer, check_port_forward
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stop import stop_pod_sandbox


@pytest.fixture
async def port() -> Any:
    """A port of this machine, on which every connection is greeted."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_connections_asked_for_at_once_share_a_fork(bench: Any, port: int) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    dialer = Dialer(bench.node)
    sockets = await asyncio.gather(*(dialer.dial(sandbox, port) for _ in range(50)))
    assert bench.world.batches == [1, 32, 17] or sum(bench.world.batches) == 50
    assert len(bench.world.batches) <= 3
    for sock in sockets:
        assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"hello"
        sock.close()


async def test_a_refusal_names_the_port(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
        with pytest.raises(
            Unavailable, match=rf"port {number} of sandbox .* 127\.0\.0\.1: connection refused"
        ):
            await Dialer(bench.node).dial(sandbox, number)


async def test_a_network_that_cannot_be_entered_is_told_to_all(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    bench.world.start_error = KernelError("open", 2, "/pin")
    dialer = Dialer(bench.node)
    results = await asyncio.gather(*(dialer.dial(sandbox, 80) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_one_that_leaves_takes_its_sockets_along(bench: Any, port: int) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    dialer = Dialer(bench.node)
    before = len(os.listdir("/proc/self/fd"))
    calls = [asyncio.ensure_future(dialer.dial(sandbox, port)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    (await calls[1]).close()
    with pytest.raises(asyncio.CancelledError):
        await calls[2]
    await bench.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


async def test_what_cannot_be_forwarded_is_refused(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    with pytest.raises(InvalidArgument):
        check_port_forward(bench.node, sandbox, (80, 0))
    with pytest.raises(NotFound):
        check_port_forward(bench.node, "nope", (80,))
    await stop_pod_sandbox(bench.node, sandbox)
    with pytest.raises(FailedPrecondition, match="NOTREADY"):
        await Dialer(bench.node).dial(sandbox, 80)


async def test_an_expected_connection_finds_its_sockets_there(bench: Any, port: int) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    dialer = Dialer(bench.node)
    before = len(os.listdir("/proc/self/fd"))
    dialer.expect(sandbox)
    with dialer.session(sandbox):
        sock = await dialer.dial(sandbox, port)
        assert sum(bench.world.batches) == 2
        sock.close()
        await bench.until(lambda: sum(bench.world.batches) == 3)
    await bench.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


async def test_sockets_that_nobody_comes_for_are_closed(bench: Any) -> None:
    timers = bench.hold_timers(socket_stock.EXPECTED_S)
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    before = len(os.listdir("/proc/self/fd"))
    Dialer(bench.node).expect(sandbox)
    await bench.until(lambda: len(os.listdir("/proc/self/fd")) > before)
    (give_up,) = timers
    give_up()
    await bench.until(lambda: len(os.listdir("/proc/self/fd")) == before)


@pytest.mark.parametrize("there", [True, False])
async def test_a_stop_closes_sockets_that_are_kept_or_on_their_way(bench: Any, there: bool) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    dialer = Dialer(bench.node)
    before = len(os.listdir("/proc/self/fd"))
    with dialer.session(sandbox):
        dialer.expect(sandbox)
        if there:
            await bench.until(lambda: len(os.listdir("/proc/self/fd")) == before + 2)
        await stop_pod_sandbox(bench.node, sandbox)
        await bench.until(lambda: len(os.listdir("/proc/self/fd")) == before)
        assert bench.node.sockets.lacks(sandbox, 2) == 0


async def test_sockets_that_could_not_be_opened_ahead_are_asked_for_again(bench: Any, port: int) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    bench.world.start_error = KernelError("open", 2, "/pin")
    dialer = Dialer(bench.node)
    dialer.expect(sandbox)
    await bench.until(lambda: bench.node.sockets.lacks(sandbox, 2) == 2)
    bench.world.start_error = None
    (await dialer.dial(sandbox, port)).close()
    bench.node.sockets.close()
