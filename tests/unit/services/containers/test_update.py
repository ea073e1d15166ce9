from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.model.resources import HugepageLimit, Resources
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.containers.stats import container_stats, list_container_stats
from shim.services.containers.status import container_status
from shim.services.containers.stop import stop_container
from shim.services.containers.update import merge, update_container_resources
from shim.services.sandboxes.run import run_pod_sandbox


def test_what_is_not_given_stays() -> None:
    old = Resources(cpu_shares=512, memory_limit_bytes=100, unified={"memory.high": "1"})
    new = Resources(memory_limit_bytes=-1, unified={"memory.min": "2"})
    unified = {"memory.high": "1", "memory.min": "2"}
    assert merge(old, new) == Resources(cpu_shares=512, memory_limit_bytes=-1, unified=unified)


def test_pages_of_other_sizes_stay_and_processes_keep_their_score() -> None:
    old = Resources(oom_score_adj=5, hugepage_limits=(HugepageLimit("2MB", 1), HugepageLimit("1GB", 2)))
    new = Resources(oom_score_adj=7, hugepage_limits=(HugepageLimit("2MB", 3),))
    assert merge(old, new) == Resources(
        oom_score_adj=5, hugepage_limits=(HugepageLimit("2MB", 3), HugepageLimit("1GB", 2))
    )


async def test_what_the_node_refuses_is_not_recorded(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InvalidArgument("not so")

    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    id_ = await create_container(bench.node, sandbox, bench.container(resources=Resources(cpu_shares=2)))
    monkeypatch.setattr(bench.cgroups, "check", refuse)
    with pytest.raises(InvalidArgument):
        await update_container_resources(bench.node, id_, Resources(cpu_shares=3))
    with pytest.raises(InvalidArgument):
        await create_container(bench.node, sandbox, bench.container("other"))
    monkeypatch.undo()
    await start_container(bench.node, id_)
    monkeypatch.setattr(bench.cgroups, "update", refuse)
    with pytest.raises(InvalidArgument):
        await update_container_resources(bench.node, id_, Resources(cpu_shares=3))
    assert container_status(bench.node, id_).status.resources.cpu_shares == 2


async def test_limits_change_in_force_and_in_the_status(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    resources = Resources(memory_limit_bytes=100)
    id_ = await create_container(bench.node, sandbox, bench.container(resources=resources))
    await update_container_resources(bench.node, id_, Resources(cpu_shares=2))
    await start_container(bench.node, id_)
    cgroup = f"/cri-shim/{id_}"
    assert bench.cgroups.limits[cgroup] == Resources(cpu_shares=2, memory_limit_bytes=100)
    await update_container_resources(bench.node, id_[:10], Resources(memory_limit_bytes=200))
    assert bench.cgroups.limits[cgroup].memory_limit_bytes == 200
    assert container_status(bench.node, id_).status.resources.memory_limit_bytes == 200
    assert container_status(bench.node, id_).spec.config.resources == resources
    with pytest.raises(InvalidArgument, match="memory limit"):
        await update_container_resources(bench.node, id_, Resources(memory_swap_limit_bytes=150))
    await stop_container(bench.node, id_, 0)
    with pytest.raises(FailedPrecondition, match="EXITED"):
        await update_container_resources(bench.node, id_, resources)
    with pytest.raises(NotFound):
        await update_container_resources(bench.node, "nope", resources)


async def test_only_what_runs_is_measured(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    ids = [await create_container(bench.node, sandbox, bench.container(f"c{n}")) for n in range(2)]
    await start_container(bench.node, ids[0])
    assert [view.spec.id async for some in list_container_stats(bench.node) for view in some] == ids[:1]
    assert (await container_stats(bench.node, ids[0])).memory is not None
    assert (await container_stats(bench.node, ids[1])).cpu is None
