import asyncio
import dataclasses
import os
from typing import Any

import pytest

from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted
from shim.model.network import PortMapping, Protocol
from shim.model.sandbox import SandboxState
from shim.model.security import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    SandboxSecurity,
    UserNamespace,
)
from shim.services.node import HandlerFeatures
from shim.services.sandboxes.list import list_sandboxes
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.status import sandbox_status


async def test_a_sandbox_becomes_ready_with_an_address(bench: Any) -> None:
    id_ = await run_pod_sandbox(bench.node, bench.sandbox(log_directory=str(bench.tmp_path / "logs")))
    view = sandbox_status(bench.node, id_[:12]).sandbox
    assert (view.state, view.ips) == (SandboxState.READY, ("10.88.0.2",))
    assert id_ in bench.world.running  # pid mode POD: the pod has an init
    assert (bench.tmp_path / "logs").is_dir()
    assert set(os.listdir(bench.node.layout.sandbox(id_))) >= {
        "hosts",
        "hostname",
        "resolv.conf",
    }


async def test_a_pod_on_the_host_network_has_no_namespace_no_address_and_no_host_ports(bench: Any) -> None:
    options = NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    ports = (PortMapping(Protocol.TCP, 80, 80),)
    config = bench.sandbox(security=SandboxSecurity(namespaces=options), port_mappings=ports)
    view = sandbox_status(bench.node, await run_pod_sandbox(bench.node, config)).sandbox
    assert (view.ips, set(view.spec.pins), bench.network.up) == ((), {"ipc"}, {})
    assert view.spec.config.security.namespaces == options
    assert bench.world.running == {}


async def test_host_port_zero_is_no_mapping(bench: Any) -> None:
    ports = (PortMapping(Protocol.TCP, 80, 0), PortMapping(Protocol.TCP, 81, 8081))
    id_ = await run_pod_sandbox(bench.node, bench.sandbox(port_mappings=ports))
    assert bench.network.up[id_].port_mappings == ports[1:]


async def test_a_retry_joins_the_call_and_no_list_shows_what_is_being_made(bench: Any) -> None:
    bench.network.gate = asyncio.Event()
    first = asyncio.create_task(run_pod_sandbox(bench.node, bench.sandbox()))
    await bench.until(lambda: bench.node.making)
    second = asyncio.create_task(run_pod_sandbox(bench.node, bench.sandbox()))
    await asyncio.sleep(0)
    assert list_sandboxes(bench.node) == []
    bench.network.gate.set()
    assert await first == await second
    assert len(list_sandboxes(bench.node)) == 1


async def test_a_retry_collects_the_result_of_a_caller_who_left(bench: Any) -> None:
    bench.network.gate = asyncio.Event()
    first = asyncio.create_task(run_pod_sandbox(bench.node, bench.sandbox()))
    await bench.until(lambda: bench.node.making)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.network.gate.set()
    while bench.node.making:
        await asyncio.sleep(0)
    id_ = await run_pod_sandbox(bench.node, bench.sandbox())
    assert [view.spec.id for view in list_sandboxes(bench.node)] == [id_]
    with pytest.raises(AlreadyExists, match=f"id {id_}, READY"):
        await run_pod_sandbox(bench.node, bench.sandbox())


async def test_the_name_taken_by_another_configuration_is_told_with_id_and_state(bench: Any) -> None:
    id_ = await run_pod_sandbox(bench.node, bench.sandbox())
    with pytest.raises(AlreadyExists, match=f"id {id_}, READY, with another configuration"):
        await run_pod_sandbox(bench.node, bench.sandbox(hostname="other"))


async def test_a_failure_leaves_nothing(bench: Any) -> None:
    bench.network.setup_error = ResourceExhausted("no address is free")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ResourceExhausted, match="no address"):
        await run_pod_sandbox(bench.node, bench.sandbox())
    assert len(os.listdir("/proc/self/fd")) == before
    assert (list_sandboxes(bench.node), bench.world.running, bench.cgroups.limits) == ([], {}, {})
    assert os.listdir(bench.node.layout.sandboxes) == []
    assert os.listdir(bench.node.settings.netns_dir) == []
    assert os.listdir(os.path.dirname(bench.node.layout.pins("x"))) == []


async def test_what_cannot_be_undone_stays_notready_and_a_retry_clears_it(bench: Any) -> None:
    bench.network.setup_error = ResourceExhausted("no address is free")
    bench.network.teardown_error = OSError("plugin crashed")
    with pytest.raises(ResourceExhausted):
        await run_pod_sandbox(bench.node, bench.sandbox())
    (view,) = list_sandboxes(bench.node)
    assert (view.state, view.status.pending) == (SandboxState.NOTREADY, ("network", "namespaces"))
    bench.network.setup_error = bench.network.teardown_error = None
    id_ = await run_pod_sandbox(bench.node, bench.sandbox())
    assert [each.spec.id for each in list_sandboxes(bench.node)] == [id_]


async def test_a_network_that_goes_on_by_itself_leaves_no_sandbox_of_a_failed_start(bench: Any) -> None:
    bench.network.setup_error = ResourceExhausted("no address is free")
    bench.network.teardown_error, bench.network.takes_over = OSError("plugin crashed"), True
    with pytest.raises(ResourceExhausted):
        await run_pod_sandbox(bench.node, bench.sandbox())
    assert list_sandboxes(bench.node) == []
    assert len(bench.network.handed_over) == 1
    assert os.listdir(bench.node.settings.netns_dir) == []


async def test_an_unknown_handler_is_refused_and_leaves_nothing(bench: Any) -> None:
    with pytest.raises(InvalidArgument, match="'gvisor' is configured; there are: cri-shim"):
        await run_pod_sandbox(bench.node, bench.sandbox(), "gvisor")
    assert os.listdir(bench.node.layout.sandboxes) == []


async def test_user_namespaces_are_refused_as_status_says(bench: Any) -> None:
    mapping = (IdMapping(100000, 0, 65536),)
    userns = UserNamespace(NamespaceMode.POD, mapping, mapping)
    options = NamespaceOptions(pid=NamespaceMode.CONTAINER, userns=userns)
    security = SandboxSecurity(namespaces=options)
    lack = "the node gives no user namespace"
    bench.node.settings = dataclasses.replace(bench.node.settings, userns_lack=lack)
    with pytest.raises(FailedPrecondition, match=lack):
        await run_pod_sandbox(bench.node, bench.sandbox(security=security))
    assert os.listdir(bench.node.layout.sandboxes) == []
    handlers = {"cri-shim": HandlerFeatures(user_namespaces=True)}
    bench.node.settings = dataclasses.replace(bench.node.settings, handlers=handlers)
    id_ = await run_pod_sandbox(bench.node, bench.sandbox(security=security))
    spec = bench.node.records.sandbox(id_).spec
    assert spec.pins["user"] == f"{bench.node.layout.pins(id_)}/user"
    assert spec.userns == userns
