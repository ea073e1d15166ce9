from __future__ import annotations

import asyncio
import gc

import pytest

from shim.streaming.tasks import Tasks


async def _nothing(_: str) -> None:
    pass


def _run(*failures: type[Exception]) -> None:
    async def fail(failure: type[Exception]) -> None:
        raise failure("why")

    async def run() -> None:
        tasks = Tasks()
        for failure in failures:
            _ = tasks.start(fail(failure))
        while tasks._tasks:
            await asyncio.sleep(0)

    asyncio.run(run())


def test_work_that_is_cancelled_before_its_first_step_is_no_warning() -> None:
    async def run() -> None:
        tasks = Tasks()
        for name in ("one", "two"):
            _ = tasks.start(_nothing(name))
        await tasks.cancel()
        assert tasks._tasks == set()

    asyncio.run(run())
    gc.collect()


def test_a_client_that_goes_away_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    _run(ConnectionResetError, BrokenPipeError)
    assert caplog.records == []


def test_any_other_failure_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    _run(ValueError)
    assert "failed: why" in caplog.text
