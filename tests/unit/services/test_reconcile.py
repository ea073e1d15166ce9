import os
from typing import Any

from shim.model.container import ContainerState, ExitRecord
from shim.model.sandbox import SandboxState
from shim.model.security import NamespaceMode, NamespaceOptions, SandboxSecurity
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.containers.status import container_status
from shim.services.reconcile import reconcile
from shim.services.sandboxes.list import list_sandboxes
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.status import sandbox_status

NODE = SandboxSecurity(
    namespaces=NamespaceOptions(
        network=NamespaceMode.NODE, ipc=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER
    )
)


async def pod(bench: Any, **changes: Any) -> tuple[str, str]:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox(**changes))
    container = await create_container(bench.node, sandbox, bench.container())
    await start_container(bench.node, container)
    return sandbox, container


async def test_what_runs_goes_on_and_can_still_end(bench: Any) -> None:
    sandbox, container = await pod(bench, security=NODE)
    node = await bench.restart()
    await reconcile(node, {})
    assert sandbox_status(node, sandbox).sandbox.state is SandboxState.READY
    assert container_status(node, container).state is ContainerState.RUNNING
    bench.world.end(container, 0)
    await bench.until(lambda: container_status(node, container).state is ContainerState.EXITED)
    assert container_status(node, container).status.reason == "Completed"


async def test_an_end_meanwhile_has_its_real_code_and_time(bench: Any) -> None:
    _, container = await pod(bench, security=NODE)
    node = await bench.restart()
    del bench.world.running[container]
    time = container_status(node, container).status.started_at_ns + 5
    await reconcile(node, {container: ExitRecord(container, 1, 42, 0, 0, time)})
    status = container_status(node, container).status
    assert (status.exit_code, status.reason, status.finished_at_ns) == (42, "Error", time)
    assert container in bench.world.forgotten


async def test_an_end_that_nobody_saw_is_unknown(bench: Any) -> None:
    _, container = await pod(bench, security=NODE)
    node = await bench.restart()
    bench.world.running.clear()
    await reconcile(node, {})
    view = container_status(node, container)
    assert (view.state, view.status.exit_code) == (ContainerState.EXITED, 255)
    assert view.status.reason == "Unknown"
    assert view.status.finished_at_ns > view.status.started_at_ns


async def test_after_a_boot_pods_are_notready_and_their_networks_are_given_back(bench: Any) -> None:
    sandbox, container = await pod(bench)
    bench.world.node = None
    bench.world.running.clear()
    node = await bench.restart("another boot")
    await reconcile(node, {})
    assert sandbox_status(node, sandbox).sandbox.state is SandboxState.NOTREADY
    assert container_status(node, container).status.exit_code == 255
    await bench.until(lambda: not bench.network.up)
    await bench.until(lambda: sandbox_status(node, sandbox).sandbox.status.pending == ())


async def test_a_sandbox_that_was_being_made_is_forgotten(bench: Any) -> None:
    sandbox, _ = await pod(bench, security=NODE)
    await bench.node.records.update_sandbox(sandbox, lambda status: type(status)(boot_id="boot"))
    node = await bench.restart()
    await reconcile(node, {})
    await bench.until(lambda: list_sandboxes(node) == [])


async def test_leftovers_without_a_record_are_removed(bench: Any) -> None:
    layout = bench.node.layout
    lost = "f" * 64
    os.makedirs(layout.pins(lost))
    os.makedirs(layout.shm(lost))
    netns = bench.tmp_path / "cri-shim-lost"
    netns.write_bytes(b"")
    os.symlink(netns, os.path.join(layout.pins(lost), "net"))
    bench.images.snapshots.ids.add(lost)
    bench.cgroups.limits[f"/cri-shim/{lost}"] = None
    await reconcile(bench.node, {})
    assert not netns.exists()
    for place in (layout.pins(lost), layout.shm(lost)):
        assert os.listdir(os.path.dirname(place)) == []
    assert (bench.images.snapshots.ids, bench.cgroups.limits) == (set(), {})
    assert bench.network.reconciled == set()


async def test_one_thing_that_cannot_be_put_in_order_does_not_stop_the_rest(bench: Any, caplog: Any) -> None:
    async def fails(live: set[str]) -> None:
        raise OSError("no netlink")

    bench.network.reconcile = fails
    await reconcile(bench.node, {})
    assert "cannot put in order: network" in caplog.text
