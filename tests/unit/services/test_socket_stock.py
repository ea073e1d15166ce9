import asyncio
import socket
from collections.abc import Callable

import pytest

from shim.services import socket_stock
from shim.services.socket_stock import Sockets, SocketStock


def some() -> asyncio.Future[Sockets]:
    future: asyncio.Future[Sockets] = asyncio.get_running_loop().create_future()
    future.set_result([socket.socket()])
    return future


def closed(future: asyncio.Future[Sockets]) -> bool:
    return all(sock.fileno() < 0 for sock in future.result())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stock, "EXPECTED_S", 0.01)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def test_nothing_is_kept_for_a_pod_without_a_client() -> None:
    stock = SocketStock()
    assert stock.lacks("p", 2) == 0
    assert stock.take("p") is None


async def test_what_is_taken_is_not_kept_any_more() -> None:
    stock = SocketStock()
    with stock.session("p"):
        assert stock.lacks("p", 2) == 2
        first, second = some(), some()
        stock.put("p", first)
        stock.put("p", second)
        assert stock.lacks("p", 2) == 0
        assert stock.take("p") is first
        assert stock.lacks("p", 2) == 1
    await until(lambda: closed(second))
    assert not closed(first)
    assert stock.lacks("p", 2) == 0
    socket_stock.close(first.result())


async def test_sockets_outlive_a_session_while_another_is_there() -> None:
    stock, sockets = SocketStock(), some()
    with stock.session("p"):
        with stock.session("p"):
            stock.put("p", sockets)
        await asyncio.sleep(0.05)
        assert not closed(sockets)
    await until(lambda: closed(sockets))


async def test_a_client_who_does_not_come_leaves_nothing() -> None:
    stock, sockets = SocketStock(), some()
    stock.expect("p")
    stock.put("p", sockets)
    await until(lambda: closed(sockets))
    assert stock.lacks("p", 2) == 0


async def test_a_client_who_has_come_is_not_expected_any_more() -> None:
    stock, sockets = SocketStock(), some()
    stock.expect("p")
    stock.expect("p")
    stock.put("p", sockets)
    with stock.session("p"):
        await asyncio.sleep(0.05)
        assert not closed(sockets)
    await until(lambda: closed(sockets))


async def test_the_next_client_finds_what_the_last_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stock, "EXPECTED_S", 10)
    stock, sockets = SocketStock(), some()
    with stock.session("p"):
        stock.put("p", sockets)
    with stock.session("p"):
        assert stock.take("p") is sockets
    socket_stock.close(sockets.result())
    stock.close()


async def test_a_pod_that_is_stopped_keeps_nothing_for_those_who_are_connected() -> None:
    stock, there = SocketStock(), some()
    on_its_way: asyncio.Future[Sockets] = asyncio.get_running_loop().create_future()
    with stock.session("p"), stock.session("q"):
        stock.put("p", there)
        stock.put("p", on_its_way)
        stock.drop("p")
        stock.drop("p")
        assert closed(there)
        assert on_its_way.cancelled()
        assert stock.lacks("p", 2) == 0
        assert stock.lacks("q", 2) == 2
        other = some()
        stock.put("q", other)
        stock.close()
        assert closed(other)


async def test_what_could_not_be_opened_is_missing_again() -> None:
    stock = SocketStock()
    fails: asyncio.Future[Sockets] = asyncio.get_running_loop().create_future()
    with stock.session("p"):
        stock.put("p", fails)
        fails.set_exception(OSError("no"))
        await until(lambda: stock.lacks("p", 2) == 2)
        assert stock.take("p") is None
