"""Tried again with growing pauses."""

import asyncio

import pytest

from shim.errors import Unavailable
from shim.network import cni_retries
from shim.network.cni_retries import Retries


def test_pauses_grow_up_to_a_bound() -> None:
    delays = [cni_retries.delay_after(tries) for tries in (0, 1, 2, 3, 9, 10, 10_000)]
    assert delays == [0, 1, 2, 4, 256, 300, 300]


async def test_it_is_tried_until_it_succeeds_once_at_a_time() -> None:
    pauses: list[float] = []
    tried: list[str] = []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)
        await asyncio.sleep(0)

    async def work(sandbox_id: str) -> None:
        tried.append(sandbox_id)
        if len(tried) < 4:
            raise Unavailable("not yet")

    retries = Retries(work, sleep)
    retries.start("a", 3)
    retries.start("a")
    while retries.next_ns or len(tried) < 4:
        await asyncio.sleep(0)
    assert (tried, pauses) == (["a"] * 4, [4, 8, 16, 32])
    await retries.close()


async def test_the_first_tries_are_awaited_but_not_for_ever() -> None:
    stuck = asyncio.Event()

    async def work(sandbox_id: str) -> None:
        if sandbox_id == "stuck":
            await stuck.wait()
        elif sandbox_id == "bad":
            raise OSError("no")

    retries = Retries(work)
    for each in ("good", "bad", "stuck"):
        retries.start(each)
    await retries.first_tries(["good", "bad"], 20)
    await retries.first_tries(["stuck", "unknown"], 0.01)
    await retries.close()


async def test_a_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work(_sandbox_id: str) -> None:
        raise RuntimeError("a bug")

    retries = Retries(work)
    retries.start("a")
    await retries.first_tries(["a"], 20)
    await retries.close()
    assert "CNI DEL of a failed: a bug" in caplog.text
