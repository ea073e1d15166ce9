import os
import resource
import socket
from typing import Any

from shim.model.cgroup import ALLOW_ALL
from shim.model.resources import Resources
from shim.model.sandbox import SandboxState
from shim.model.stats import CpuStats, MemoryStats
from shim.services import measuring
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stats import list_sandbox_metrics, list_sandbox_stats, sandbox_stats
from shim.services.sandboxes.stop import stop_pod_sandbox
from shim.services.views import ContainerStatsView, SandboxFilter


async def run(bench: Any, name: str = "web", containers: tuple[str, ...] = ("a", "b"), **changes: Any) -> str:
    id_ = await run_pod_sandbox(bench.node, bench.sandbox(name, **changes))
    for each in containers:
        await start_container(bench.node, await create_container(bench.node, id_, bench.container(each)))
    path = bench.node.records.sandbox(id_).spec.pins["net"]
    bench.node.traffic.there.add(path)
    return id_


async def test_a_pod_without_a_cgroup_of_its_own_is_the_sum_of_its_containers(bench: Any) -> None:
    view = await sandbox_stats(bench.node, await run(bench))
    assert (view.cpu.usage_ns, view.memory.working_set_bytes, view.memory.limit_bytes) == (4, 6, 0)
    assert (view.processes, len(view.containers)) == (3, 2)  # with the init that they share
    assert view.network.default.name == "eth0"


async def test_a_pod_with_a_cgroup_is_what_that_says(bench: Any) -> None:
    bench.cgroups.create("/kubepods/pod1", Resources(), ALLOW_ALL)
    view = await sandbox_stats(bench.node, await run(bench, cgroup_parent="/kubepods/pod1"))
    assert (view.cpu.usage_ns, view.memory.working_set_bytes, view.memory.limit_bytes) == (2, 3, 5)


async def test_a_cgroup_that_two_pods_share_is_nobodys(bench: Any) -> None:
    bench.cgroups.create("/kubepods/pod1", Resources(), ALLOW_ALL)
    first = await run(bench, cgroup_parent="/kubepods/pod1")
    other = await run(bench, "other", cgroup_parent="/kubepods/pod1")
    assert (await sandbox_stats(bench.node, first)).cpu.usage_ns == 4
    await stop_pod_sandbox(bench.node, other)
    assert (await sandbox_stats(bench.node, first)).cpu.usage_ns == 2


async def test_only_ready_sandboxes_that_match_are_measured(bench: Any) -> None:
    first, second = await run(bench), await run(bench, "other", labels={"a": "b"})
    stopped = await run(bench, "third")
    await stop_pod_sandbox(bench.node, stopped)
    assert bench.node.records.sandbox(stopped).state is SandboxState.NOTREADY

    async def listed(wanted: SandboxFilter | None = None) -> list[str]:
        return [view.spec.id async for some in list_sandbox_stats(bench.node, wanted) for view in some]

    assert await listed() == [first, second]
    assert await listed(SandboxFilter(labels={"a": "b"})) == [second]
    assert await listed(SandboxFilter(id=first[:8])) == [first]
    view = await sandbox_stats(bench.node, stopped)
    assert (view.cpu, view.memory, view.network) == (None, None, None)
    assert (view.timestamp_ns, view.containers) == (0, ())


async def test_metrics_tell_of_what_runs(bench: Any) -> None:
    id_ = await run(bench)
    await create_container(bench.node, id_, bench.container("not started"))
    [view] = [view async for some in list_sandbox_metrics(bench.node) for view in some]
    assert view.capacity.device == "/dev/vda1"
    assert [each.container.spec.config.metadata.name for each in view.containers] == ["a", "b"]
    assert all(each.cgroup.tasks == 1 and each.processes.processes == 1 for each in view.containers)


def test_of_nothing_there_is_no_sum(bench: Any) -> None:
    nothing = [ContainerStatsView(None, None, None, None)]
    assert (measuring.sum_cpu(nothing), measuring.sum_memory(nothing)) == (None, None)
    one = [ContainerStatsView(None, CpuStats(5, 2, 3), MemoryStats(6, 1, 1, 1, 9, 1, 1, 1), None)]
    assert measuring.sum_cpu(one * 2) == CpuStats(5, 4, 6)
    assert measuring.sum_memory(one * 2) == MemoryStats(6, 2, 2, 2, 0, 2, 2, 2)


def test_what_this_process_holds() -> None:
    before = measuring.process_stats([os.getpid()], os.getpid())
    with socket.socket(), socket.socket():
        found = measuring.process_stats([os.getpid()], os.getpid())
    assert (found.file_descriptors, found.sockets) == (before.file_descriptors + 2, before.sockets + 2)
    assert found.open_files_soft == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_process_that_has_ended_holds_nothing() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    found = measuring.process_stats([pid], pid)
    assert (found.file_descriptors, found.sockets, found.open_files_soft) == (0, 0, None)
