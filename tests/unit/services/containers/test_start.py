import asyncio
import dataclasses
from typing import Any

import pytest

from shim.errors import ExecFailed, FailedPrecondition, KernelError, NotFound, StateError
from shim.model.container import ContainerMetadata, ContainerState
from shim.model.resources import Resources
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.containers.status import container_status
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stop import stop_pod_sandbox


async def created(bench: Any, **changes: Any) -> str:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    id_: str = await create_container(bench.node, sandbox, bench.container(**changes))
    return id_


async def test_it_runs_within_its_limits(bench: Any) -> None:
    id_ = await created(bench, resources=Resources(memory_limit_bytes=1 << 20))
    await start_container(bench.node, id_)
    view = container_status(bench.node, id_)
    assert view.state is ContainerState.RUNNING
    assert view.status.process is not None
    assert view.status.process.pid == bench.world.running[id_].pid
    assert bench.cgroups.limits[f"/cri-shim/{id_}"].memory_limit_bytes == 1 << 20


async def test_the_log_is_there_when_it_runs_whatever_the_logger_does(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox(log_directory=str(bench.tmp_path)))
    for name in ("new", "there"):
        (bench.tmp_path / "there").write_text("earlier\n")
        asked = dataclasses.replace(bench.container(log_path=name), metadata=ContainerMetadata(name))
        await start_container(bench.node, await create_container(bench.node, sandbox, asked))
    assert (bench.tmp_path / "new").read_text() == ""
    assert (bench.tmp_path / "there").read_text() == "earlier\n"
    (bench.tmp_path / "directory").mkdir()
    asked = dataclasses.replace(bench.container(log_path="directory"), metadata=ContainerMetadata("no place"))
    await start_container(bench.node, await create_container(bench.node, sandbox, asked))


@pytest.mark.parametrize(
    "error",
    [ExecFailed('exec: "nope": executable file not found in $PATH'), KernelError("mount", 2, "/srv")],
)
async def test_a_failed_start_is_told_to_the_caller_and_kept_in_the_status(
    bench: Any, error: Exception
) -> None:
    id_ = await created(bench)
    bench.world.start_error = error
    with pytest.raises(type(error)):
        await start_container(bench.node, id_)
    view = container_status(bench.node, id_)
    assert (view.state, view.status.exit_code) == (ContainerState.EXITED, 128)
    assert (view.status.reason, view.status.message) == ("StartError", str(error))
    assert f"/cri-shim/{id_}" not in bench.cgroups.limits
    with pytest.raises(StateError, match="it is EXITED"):
        await start_container(bench.node, id_)


async def test_it_starts_once_however_many_ask(bench: Any) -> None:
    id_ = await created(bench)
    before = bench.world.starts
    await asyncio.gather(*(start_container(bench.node, id_) for _ in range(3)))
    assert bench.world.starts == before + 1
    with pytest.raises(StateError, match="it is RUNNING"):
        await start_container(bench.node, id_)


async def test_an_end_that_comes_before_the_start_is_written_loses_nothing(bench: Any) -> None:
    id_ = await created(bench)
    start = bench.world.container

    async def ends_at_once(*args: Any) -> Any:
        process = await start(*args)
        bench.world.end(id_, 3)
        return process

    bench.world.container = ends_at_once
    await start_container(bench.node, id_)
    await bench.node.pools.records.run(int)
    view = container_status(bench.node, id_)
    assert (view.state, view.status.exit_code, view.status.reason) == (ContainerState.EXITED, 3, "Error")
    assert view.status.started_at_ns


async def test_neither_unknown_nor_in_a_stopped_sandbox(bench: Any) -> None:
    with pytest.raises(NotFound):
        await start_container(bench.node, "nope")
    id_ = await created(bench)
    await stop_pod_sandbox(bench.node, container_status(bench.node, id_).spec.sandbox_id)
    with pytest.raises(FailedPrecondition, match="NOTREADY"):
        await start_container(bench.node, id_)
    assert container_status(bench.node, id_).state is ContainerState.CREATED
