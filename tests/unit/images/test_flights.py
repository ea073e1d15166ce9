import asyncio

import pytest

from shim.images.flights import Flights, to_the_end


class Work:
    def __init__(self) -> None:
        self.begun = 0
        self.cleaned = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.go.wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned += 1
        return self.begun


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_at_once_are_done_once() -> None:
    flights, work = Flights[int](), Work()
    calls = [asyncio.ensure_future(flights.join("key", work)) for _ in range(3)]
    await settle()
    assert flights.is_flying("key")
    work.go.set()
    assert await asyncio.gather(*calls) == [1, 1, 1]
    assert not flights.is_flying("key")
    assert await flights.join("key", work) == 2


async def test_a_caller_that_is_cancelled_goes_only_when_the_work_is_done() -> None:
    work = Work()
    call = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await settle()
        call.cancel()
    await settle()
    assert not call.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert work.cleaned == 1


async def test_who_leaves_does_not_stop_the_others() -> None:
    flights, work = Flights[int](), Work()
    first, second = (asyncio.ensure_future(flights.join("key", work)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert not work.cleaned
    work.go.set()
    assert await second == 1


async def test_when_the_last_leaves_the_work_is_stopped_and_has_cleaned_up() -> None:
    flights, work = Flights[int](), Work()
    calls = [asyncio.ensure_future(flights.join("key", work)) for _ in range(2)]
    await settle()
    for call in calls:
        call.cancel()
    assert all(
        isinstance(answer, asyncio.CancelledError)
        for answer in await asyncio.gather(*calls, return_exceptions=True)
    )
    assert (work.begun, work.cleaned) == (1, 1)
    assert not flights.is_flying("key")


async def test_all_hear_of_a_failure_and_the_next_call_tries_again() -> None:
    flights = Flights[int]()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    calls = [asyncio.ensure_future(flights.join("key", fail)) for _ in range(2)]
    for call in calls:
        with pytest.raises(ValueError, match="no"):
            await call
    assert not flights.is_flying("key")
