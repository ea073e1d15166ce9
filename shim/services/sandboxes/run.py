"""RunPodSandbox."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Final

from shim.errors import AlreadyExists
from shim.model import ids
from shim.model.network import NetworkResult, order_ips
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxState, SandboxStatus
from shim.model.security import NamespaceMode
from shim.network.plugin import SetupRequest
from shim.services import host_files
from shim.services.confinement.resolve import labels_of_sandbox
from shim.services.node import Node
from shim.services.sandboxes import namespace_process, namespaces, teardown
from shim.services.sandboxes.teardown import HOST_NETWORK
from shim.services.undo import Undo
from shim.services.validate import sandbox as checks
from shim.services.views import SandboxView
from shim.stages import stage

log = logging.getLogger(__name__)

_UNDO_TIMEOUT_S: Final = 120.0  # longer than all steps of a teardown, each of which has a time of its own


async def run_pod_sandbox(node: Node, config: SandboxConfig, handler: str = "") -> str:
    """Make a sandbox and return its id.

    A retry with the same name and an equal configuration joins the call under way, or collects the result
    of one whose caller left before the answer.

    Raises:
        InvalidArgument: the configuration can never be carried out, or the handler is unknown.
        FailedPrecondition: the node gives pods no user namespaces.
        AlreadyExists: the name is taken; the text tells id and state of who has it.
    """
    checks.check(config)
    node.settings.check_handler(handler)
    userns = config.security.namespaces.userns
    if userns is not None and userns.mode is NamespaceMode.POD:
        node.settings.check_userns(handler)
    metadata = config.metadata
    id_ = await node.flights.join_or_start(
        ("sandbox", metadata),
        (config, handler),
        lambda: _find_or_make(node, config, handler),
        what=_what(metadata),
    )
    await node.records.update_sandbox(id_, lambda status: dataclasses.replace(status, delivered=True))
    return id_


def _what(metadata: SandboxMetadata) -> str:
    return f"sandbox {metadata.namespace}/{metadata.name} (uid {metadata.uid}, attempt {metadata.attempt})"


async def _find_or_make(node: Node, config: SandboxConfig, handler: str) -> str:
    there = node.records.sandbox_by_name(config.metadata)
    if there is not None and not there.status.ready_at_ns:
        await teardown.try_again(node, there.spec.id)  # an earlier try, which could not be undone then
        there = node.records.sandbox_by_name(config.metadata)
    if there is not None:
        return _collect(there, config, handler)
    return await _make(node, config, handler)


def _collect(there: SandboxView, config: SandboxConfig, handler: str) -> str:
    same = there.spec.config == config and there.spec.handler == handler
    if same and there.state is SandboxState.READY and not there.status.delivered:
        return there.spec.id
    raise AlreadyExists(
        f"{_what(config.metadata)} exists already: id {there.spec.id}, {there.state.name}"
        + ("" if same else ", with another configuration")
    )


async def _make(node: Node, config: SandboxConfig, handler: str) -> str:
    used = [view.spec.mount_label for view in node.records.sandboxes()]
    labels = await node.pools.plans.run(labels_of_sandbox, node.settings, config.security, used)
    spec = plan_spec(node, config, handler, labels)
    id_ = spec.id
    node.making.add(id_)
    try:
        async with node.locks.hold(id_), Undo(f"sandbox {id_}", _UNDO_TIMEOUT_S) as undo:
            with stage("record"):
                await node.records.create_sandbox(spec, SandboxStatus(boot_id=node.boot_id))
            undo.push("everything", lambda: teardown.discard(node, spec))
            network = await _build(node, spec)
            await node.records.update_sandbox(
                id_, lambda status: _ready(spec, status, network, node.now_ns())
            )
            undo.keep()
    finally:
        node.making.discard(id_)
    log.info("sandbox %s is ready: %s", id_, _what(config.metadata))
    return id_


def plan_spec(
    node: Node, config: SandboxConfig, handler: str, labels: tuple[str, str] = ("", "")
) -> SandboxSpec:
    """Return what is going to be made: all names are known before the first thing exists."""
    id_ = ids.new_id()
    host_network = config.security.namespaces.network is NamespaceMode.NODE
    return SandboxSpec(
        id=id_,
        config=config,
        handler=handler,
        created_at_ns=node.now_ns(),
        cgroup_driver=node.cgroups.driver,
        cgroup_parent=node.cgroups.parent(config.cgroup_parent),
        network=HOST_NETWORK if host_network else node.networks.kind(),
        pins=namespaces.plan_pins(node.layout, node.settings.netns_dir, id_, config.security.namespaces),
        process_label=labels[0],
        mount_label=labels[1],
    )


async def _build(node: Node, spec: SandboxSpec) -> NetworkResult | None:
    """Make what the spec names, in the order in which each needs the one before."""
    with stage("files"):
        await node.pools.files.run(_make_files, node, spec)
    with stage("namespaces"):
        fds = await namespace_process.make(node, spec)
    try:
        if spec.network == HOST_NETWORK:
            return None
        with stage(f"network {spec.network}"):
            request = _network_request(spec, fds.get("netlink"))
            network = await node.networks.get(spec.network).setup(request)
        await node.launcher.interface_sysctls(spec)
        return dataclasses.replace(network, ips=order_ips(network.ips, node.settings.ip_pref))
    finally:
        for fd in fds.values():
            os.close(fd)


def _make_files(node: Node, spec: SandboxSpec) -> None:
    """Make what others are going to open or mount on. Blocking."""
    layout, config = node.layout, spec.config
    directory = layout.sandbox(spec.id)
    host_files.write(
        config, host_files.pod_hostname(config, node.settings.hostname), directory, spec.mount_label
    )
    if config.log_directory:
        os.makedirs(config.log_directory, 0o755, exist_ok=True)
    namespaces.make_places(layout, spec)


def _network_request(spec: SandboxSpec, netlink_fd: int | None) -> SetupRequest:
    config = spec.config
    return SetupRequest(
        sandbox_id=spec.id,
        name=config.metadata.name,
        namespace=config.metadata.namespace,
        uid=config.metadata.uid,
        netns_path=spec.pins["net"],
        netlink_fd=netlink_fd,
        port_mappings=tuple(mapping for mapping in config.port_mappings if mapping.host_port),
        hostname=config.hostname,
        annotations=config.annotations,
        labels=config.labels,
        dns=config.dns,
        cgroup_parent=spec.cgroup_parent,
    )


def _ready(
    spec: SandboxSpec, status: SandboxStatus, network: NetworkResult | None, now_ns: int
) -> SandboxStatus:
    config = spec.config
    return dataclasses.replace(
        status, ready_at_ns=now_ns, network=network, overhead=config.overhead, resources=config.resources
    )
