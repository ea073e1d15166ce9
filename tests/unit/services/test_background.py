import asyncio

import pytest

from shim.services.background import LONGEST_DELAY_S, Background, next_delay


async def test_retries_slow_down_until_the_work_succeeds() -> None:
    slept: list[float] = []
    answers = iter([False, OSError("no"), False, True])

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    async def work() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    background = Background(sleep)
    background.retry("teardown", work)
    background.retry("teardown", work)
    for _ in range(20):
        await asyncio.sleep(0)
    await background.close()
    assert slept == [1, 2, 4, 8]


def test_delays_have_an_upper_bound() -> None:
    assert next_delay(LONGEST_DELAY_S) == LONGEST_DELAY_S


async def test_an_error_in_the_background_is_logged_with_its_subject(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise OSError("disk full")

    background = Background()
    await asyncio.gather(background.task("exit of c1", work()), return_exceptions=True)
    await asyncio.sleep(0)
    assert "exit of c1 failed: disk full" in caplog.text


async def test_close_cancels_what_is_under_way() -> None:
    background = Background()
    task = background.task("sleep", asyncio.sleep(10))
    await background.close()
    assert task.cancelled()


async def test_what_waits_is_told_with_its_last_error() -> None:
    gate = asyncio.Event()
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        if len(slept) == 2:
            await gate.wait()

    async def work() -> bool:
        raise OSError("no route")

    background = Background(sleep)
    background.retry("teardown", work)
    while len(slept) < 2:
        await asyncio.sleep(0)
    waiting = background.waiting()["teardown"]
    assert (waiting.failures, waiting.delay_s, waiting.error) == (2, 2, "no route")
    await background.close()
    assert background.waiting() == {}
