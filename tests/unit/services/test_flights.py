import asyncio

import pytest

from shim.errors import AlreadyExists, NotFound
from shim.services.flights import Flights


class Work:
    def __init__(self) -> None:
        self.started = 0
        self.go = asyncio.Event()

    async def __call__(self) -> str:
        self.started += 1
        await self.go.wait()
        return "id"


async def test_a_retry_joins_the_call_under_way() -> None:
    flights, work = Flights(), Work()
    first = asyncio.create_task(flights.join_or_start("key", "request", work, what="thing"))
    second = asyncio.create_task(flights.join_or_start("key", "request", work, what="thing"))
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(first, second) == ["id", "id"]
    assert work.started == 1


async def test_the_call_goes_on_when_its_caller_leaves_and_a_retry_gets_its_result() -> None:
    flights, work = Flights(), Work()
    first = asyncio.create_task(flights.join_or_start("key", "request", work, what="thing"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(flights.join_or_start("key", "request", work, what="thing"))
    await asyncio.sleep(0)
    work.go.set()
    assert await second == "id"
    assert work.started == 1


async def test_another_request_for_the_same_name_is_refused() -> None:
    flights, work = Flights(), Work()
    first = asyncio.create_task(flights.join_or_start("key", "request", work, what="thing"))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists, match="thing is being made just now"):
        await flights.join_or_start("key", "other", work, what="thing")
    work.go.set()
    await first


async def test_after_the_end_a_new_call_starts_anew() -> None:
    flights, work = Flights(), Work()
    work.go.set()
    for _ in range(2):
        await flights.join_or_start("key", "request", work, what="thing")
    assert work.started == 2


async def test_an_error_reaches_every_caller_and_one_that_nobody_awaits_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights, go = Flights(), asyncio.Event()

    async def fails() -> None:
        await go.wait()
        raise NotFound("image", "x")

    callers = [asyncio.create_task(flights.join_or_start("a", 1, fails, what="A")) for _ in range(2)]
    lonely = asyncio.create_task(flights.join_or_start("b", 1, fails, what="B"))
    await asyncio.sleep(0)
    lonely.cancel()
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [NotFound, NotFound]
    await asyncio.sleep(0)
    assert "B: the call failed after its caller had left" in caplog.text
    assert "A: the call failed" not in caplog.text


async def test_close_lets_each_call_undo_what_it_did() -> None:
    flights, undone = Flights(), []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            undone.append(True)

    caller = asyncio.create_task(flights.join_or_start("a", 1, work, what="A"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await flights.close()
    assert undone == [True]
    await asyncio.gather(caller, return_exceptions=True)
