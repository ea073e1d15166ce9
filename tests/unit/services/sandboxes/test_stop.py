import os
from typing import Any

import pytest

from shim.errors import Unavailable
from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.services.containers.create import create_container
from shim.services.containers.list import list_containers
from shim.services.containers.start import start_container
from shim.services.sandboxes import teardown
from shim.services.sandboxes.list import list_sandboxes
from shim.services.sandboxes.remove import remove_pod_sandbox
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.status import sandbox_status
from shim.services.sandboxes.stop import stop_pod_sandbox
from shim.services.views import ContainerFilter


async def pod(bench: Any, containers: int = 2) -> str:
    id_: str = await run_pod_sandbox(bench.node, bench.sandbox())
    for number in range(containers):
        container = await create_container(bench.node, id_, bench.container(f"app{number}"))
        await start_container(bench.node, container)
    return id_


async def test_a_stop_ends_all_that_runs_and_takes_the_network_down(bench: Any) -> None:
    id_ = await pod(bench)
    await stop_pod_sandbox(bench.node, id_)
    view = sandbox_status(bench.node, id_).sandbox
    assert (view.state, view.ips, view.status.pending) == (SandboxState.NOTREADY, (), ())
    assert (bench.world.running, bench.network.up) == ({}, {})
    containers = list_containers(bench.node, ContainerFilter(sandbox_id=id_[:8]))
    assert [each.state for each in containers] == [ContainerState.EXITED] * 2
    assert os.listdir(bench.node.settings.netns_dir) == []
    for _ in range(2):
        await stop_pod_sandbox(bench.node, id_)
    await stop_pod_sandbox(bench.node, "nope")


async def test_a_network_that_stays_up_does_not_hold_up_the_stop_but_the_removal(bench: Any) -> None:
    id_ = await pod(bench)
    bench.network.teardown_error = OSError("plugin crashed")
    await stop_pod_sandbox(bench.node, id_)
    assert bench.world.running == {}
    with pytest.raises(Unavailable, match="network cannot be taken down: plugin crashed"):
        await remove_pod_sandbox(bench.node, id_)
    (view,) = list_sandboxes(bench.node)
    assert (view.state, view.status.pending) == (SandboxState.NOTREADY, ("network", "namespaces"))
    bench.network.teardown_error = None
    assert await teardown.try_again(bench.node, id_)
    await remove_pod_sandbox(bench.node, id_)
    assert list_sandboxes(bench.node) == []


async def test_a_network_that_goes_on_by_itself_holds_up_neither_stop_nor_removal(bench: Any) -> None:
    id_ = await pod(bench)
    bench.network.teardown_error, bench.network.takes_over = OSError("plugin crashed"), True
    await stop_pod_sandbox(bench.node, id_)
    (view,) = list_sandboxes(bench.node)
    assert (view.state, view.status.pending) == (SandboxState.NOTREADY, ("network", "namespaces"))
    assert bench.network.handed_over == []
    await remove_pod_sandbox(bench.node, id_)
    assert (list_sandboxes(bench.node), bench.network.handed_over) == ([], [id_])
    assert os.listdir(bench.node.settings.netns_dir) == []


async def test_a_removal_of_a_running_pod_leaves_nothing(bench: Any) -> None:
    id_ = await pod(bench)
    await remove_pod_sandbox(bench.node, id_[:16])
    assert (bench.world.running, bench.network.up, bench.cgroups.limits) == ({}, {}, {})
    assert (list_sandboxes(bench.node), list_containers(bench.node)) == ([], [])
    assert (os.listdir(bench.node.layout.sandboxes), os.listdir(bench.node.layout.containers)) == ([], [])
    assert bench.images.snapshots.ids == set()
    assert len(bench.node.locks) == 0
    await remove_pod_sandbox(bench.node, id_)


async def test_a_pod_whose_init_ends_is_not_ready_and_its_stop_still_does_everything(bench: Any) -> None:
    id_ = await pod(bench)
    bench.world.end(id_, 137, 9)
    await bench.until(lambda: sandbox_status(bench.node, id_).sandbox.state is SandboxState.NOTREADY)
    await stop_pod_sandbox(bench.node, id_)
    assert (bench.world.running, bench.network.up) == ({}, {})
