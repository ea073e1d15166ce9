import asyncio
from typing import Any

from shim.model.container import ContainerState
from shim.services.containers.create import create_container
from shim.services.containers.remove import remove_container
from shim.services.containers.start import start_container
from shim.services.containers.status import container_status
from shim.services.containers.stop import stop_container
from shim.services.sandboxes.run import run_pod_sandbox


async def until_signalled(bench: Any) -> None:
    await bench.until(lambda: bench.world.signals)


async def test_the_status_is_true_when_the_call_returns(bench: Any) -> None:
    id_ = await bench.running()
    await stop_container(bench.node, id_, 30)
    view = container_status(bench.node, id_)
    assert (view.state, view.status.exit_code, view.status.reason) == (ContainerState.EXITED, 143, "Error")
    assert id_ in bench.world.forgotten


async def test_many_calls_send_one_signal_and_a_shorter_one_ends_it(bench: Any) -> None:
    bench.world.obeys_signals = False
    id_ = await bench.running()
    calls = [asyncio.create_task(stop_container(bench.node, id_, 3600)) for _ in range(3)]
    await until_signalled(bench)
    await stop_container(bench.node, id_, 0)
    await asyncio.gather(*calls)
    assert [number for _, number in bench.world.signals] == [15]
    assert container_status(bench.node, id_).status.exit_code == 137
    assert bench.node.stops == {}


async def test_it_goes_on_when_the_caller_leaves(bench: Any) -> None:
    bench.world.obeys_signals = False
    id_ = await bench.running()
    call = asyncio.create_task(stop_container(bench.node, id_, 0.05))
    await until_signalled(bench)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await bench.node.waiters.expect(id_)
    assert container_status(bench.node, id_).state is ContainerState.EXITED


async def test_the_next_daemon_does_not_signal_again(bench: Any) -> None:
    bench.world.obeys_signals = False
    id_ = await bench.running()
    call = asyncio.create_task(stop_container(bench.node, id_, 3600))
    await until_signalled(bench)
    await bench.node.pools.records.run(int)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    node = await bench.restart()
    await stop_container(node, id_, 0.01)
    assert len(bench.world.signals) == 1


async def test_unknown_created_and_ended_containers_are_stopped_already(bench: Any) -> None:
    await stop_container(bench.node, "nope", 0)
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    id_ = await create_container(bench.node, sandbox, bench.container())
    await stop_container(bench.node, id_, 0)
    assert container_status(bench.node, id_).state is ContainerState.CREATED
    await start_container(bench.node, id_)
    for _ in range(2):
        await stop_container(bench.node, id_, 0)
    assert bench.world.signals == []


async def test_remove_kills_what_runs_and_leaves_nothing(bench: Any) -> None:
    id_ = await bench.running()
    await asyncio.gather(remove_container(bench.node, id_), remove_container(bench.node, id_[:20]))
    assert (bench.images.snapshots.ids, list(bench.node.records.containers())) == (set(), [])
    assert f"/cri-shim/{id_}" not in bench.cgroups.limits
    await remove_container(bench.node, id_)


async def test_an_out_of_memory_kill_is_told(bench: Any) -> None:
    id_ = await bench.running()
    bench.world.end(id_, 137, 9, oom_kills=1)
    await bench.node.waiters.expect(id_)
    assert container_status(bench.node, id_).status.reason == "OOMKilled"
