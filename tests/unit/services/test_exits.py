import asyncio
from typing import Any

import pytest

from shim.errors import Unavailable
from shim.model.container import ContainerState, ExitRecord
from shim.services import exits
from shim.services.containers.status import container_status


async def test_an_end_is_told_once_the_log_is_written(bench: Any) -> None:
    id_, asked, written = await bench.running(), asyncio.Event(), asyncio.Event()

    async def draining() -> None:
        asked.set()
        await written.wait()

    bench.world.draining = draining
    bench.world.end(id_, 3)
    await asked.wait()
    assert container_status(bench.node, id_).state is ContainerState.RUNNING
    written.set()
    await bench.node.waiters.expect(id_)
    assert container_status(bench.node, id_).state is ContainerState.EXITED


async def test_a_daemon_that_starts_waits_for_no_log(bench: Any) -> None:
    """The disk of the logs may hang."""
    id_, bench.world.draining = await bench.running(), asyncio.Event().wait
    await exits.take_in(bench.node, ExitRecord(id_, 1000, 3, 0, 0, 10**18))
    assert container_status(bench.node, id_).state is ContainerState.EXITED


async def refused() -> None:
    raise Unavailable("no supervisor answers")


@pytest.mark.parametrize("draining", [refused, asyncio.Event().wait], ids=["refused", "hangs"])
async def test_an_end_is_told_also_where_the_log_cannot_be_written(
    bench: Any, monkeypatch: pytest.MonkeyPatch, draining: object
) -> None:
    monkeypatch.setattr(exits, "LOG_S", 0.01)
    id_, bench.world.draining = await bench.running(), draining
    bench.world.end(id_, 3)
    await bench.until(lambda: container_status(bench.node, id_).state is ContainerState.EXITED)
