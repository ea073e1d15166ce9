import asyncio
import itertools

import pytest

from shim.images.stalls import Stalled, wait


async def work(turns: int) -> str:
    for _ in range(turns):
        await asyncio.sleep(0.01)
    return "done"


async def test_work_that_goes_on_may_take_any_time() -> None:
    task = asyncio.ensure_future(work(30))
    count = itertools.count()
    await wait(task, lambda: next(count), 0.02, "write it")
    assert task.result() == "done"


async def test_where_progress_cannot_be_told_nothing_is_a_stall() -> None:
    task = asyncio.ensure_future(work(30))
    await wait(task, lambda: None, 0.02, "write it")
    assert task.result() == "done"


async def test_work_that_stands_still_is_given_up_but_not_cancelled() -> None:
    end = asyncio.Event()
    task = asyncio.ensure_future(end.wait())
    with pytest.raises(Stalled, match=r"cannot write it: nothing was read or written for 0\.02 s; look"):
        await wait(task, lambda: 1, 0.02, "write it")
    end.set()
    assert await task


async def test_work_that_failed_has_ended() -> None:
    async def fail() -> None:
        raise OSError

    task = asyncio.ensure_future(fail())
    await wait(task, lambda: 1, 10, "write it")
    assert isinstance(task.exception(), OSError)
