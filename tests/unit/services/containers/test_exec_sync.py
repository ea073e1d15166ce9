import asyncio
import os
from typing import Any

import pytest

from shim.errors import DeadlineExceeded, ExecFailed, FailedPrecondition, InvalidArgument, NotFound
from shim.services.containers.exec_sync import exec_sync
from shim.services.views import ExecResult


async def settled(bench: Any) -> None:
    """Wait until what an exec leaves behind is put away."""
    await bench.until(
        lambda: not any("exec-" in path for path in bench.cgroups.limits) and len(bench.node.waiters) == 0
    )


async def test_output_and_exit_code_come_back(bench: Any) -> None:
    id_ = await bench.running()
    assert await exec_sync(bench.node, id_[:10], ("echo", "hello"), 10) == ExecResult(b"hello\n", b"", 7)
    await settled(bench)


async def test_on_timeout_it_is_killed(bench: Any) -> None:
    bench.world.exec_hangs = True
    id_ = await bench.running()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.01 s"):
        await exec_sync(bench.node, id_, ("sleep", "100"), 0.01)
    assert list(bench.world.running) == [*bench.node.inits, id_]
    await settled(bench)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_container_that_lets_nobody_in_does_not_keep_the_caller(bench: Any) -> None:
    id_ = await bench.running()
    gate, launch = asyncio.Event(), bench.world.exec

    async def slow(*args: Any) -> Any:
        await gate.wait()
        return await launch(*args)

    bench.world.exec = slow
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeadlineExceeded):
        await exec_sync(bench.node, id_, ("true",), 0.01)
    gate.set()
    await settled(bench)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_when_the_caller_leaves_it_is_killed(bench: Any) -> None:
    bench.world.exec_hangs = True
    id_ = await bench.running()
    call = asyncio.create_task(exec_sync(bench.node, id_, ("sleep", "100")))
    await bench.until(lambda: len(bench.world.running) >= 3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await bench.until(lambda: len(bench.world.running) <= 2)
    await settled(bench)


async def test_a_missing_program_is_an_error_of_the_call(bench: Any) -> None:
    id_ = await bench.running()
    bench.world.start_error = ExecFailed('exec: "nope": executable file not found in $PATH')
    with pytest.raises(ExecFailed, match="not found in"):
        await exec_sync(bench.node, id_, ("nope",))
    await settled(bench)


async def test_much_output_is_cut_off_and_counted(bench: Any) -> None:
    bench.world.exec_output = b"x" * 5000
    object.__setattr__(bench.node.settings, "exec_output_bytes", 1000)
    result = await exec_sync(bench.node, await bench.running(), ("yes",))
    assert (len(result.stdout), result.dropped_bytes) == (1000, 4000)


async def test_what_cannot_be_executed_is_refused(bench: Any) -> None:
    id_ = await bench.running()
    with pytest.raises(InvalidArgument, match="cmd is empty"):
        await exec_sync(bench.node, id_, ())
    with pytest.raises(NotFound):
        await exec_sync(bench.node, "nope", ("true",))
    bench.world.end(id_)
    await bench.node.waiters.expect(id_)
    with pytest.raises(FailedPrecondition, match="it is EXITED"):
        await exec_sync(bench.node, id_, ("true",))
