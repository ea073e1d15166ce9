"""Starting on a node where things are already: look, decide (`recovery`), carry out.

Runs before the socket answers, so no verb is in the way. Nothing here stops the daemon from starting: what
cannot be done now is logged and, where it belongs to a sandbox, tried again in the background.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from shim.model.container import ContainerStatus, ExitRecord
from shim.services import exits, recovery
from shim.services.node import Node
from shim.services.sandboxes import namespaces, teardown
from shim.supervisor.protocol import INIT

log = logging.getLogger(__name__)


async def reconcile(node: Node, exit_records: Mapping[str, ExitRecord]) -> None:
    """Bring records, supervisor and kernel together, then remove what belongs to no record.

    The records must be loaded and the supervisor connected; exits that it tells of meanwhile are taken in
    as ever.

    Args:
        node: where.
        exit_records: what lies in the state directory, by id.
    """
    world = await _look(node, exit_records)
    node.inits.update(
        child.id for child in world.children.values() if child.kind == INIT and not child.record
    )
    sandboxes = [(view.spec, view.status) for view in node.records.sandboxes()]
    containers = [(view.spec, view.status) for view in node.records.containers()]
    for decision in recovery.decide(sandboxes, containers, world):
        await _try(str(decision), partial(_carry_out, node, decision))
    await remove_leftovers(node)


async def _look(node: Node, exit_records: Mapping[str, ExitRecord]) -> recovery.World:
    children = {child.id: child for child in await node.supervisor.children()}
    pinned = await node.pools.files.run(namespaces.pinned_paths)
    return recovery.World(node.boot_id, node.now_ns(), children, exit_records, pinned)


async def _carry_out(node: Node, decision: recovery.Decision) -> None:
    match decision:
        case recovery.ContainerEnded(id_, record):
            log.info("container %s ended while no daemon ran: %s", id_, record)
            await _kill_remains(node, id_)
            await node.records.update_container(id_, partial(_was_started, record))
            await exits.take_in(node, record)
        case recovery.ContainerRuns(id_, process, started_at_ns):

            def runs(status: ContainerStatus) -> ContainerStatus:
                return dataclasses.replace(status, process=process, started_at_ns=started_at_ns)

            await node.records.update_container(id_, runs)
        case recovery.SandboxVoid(id_, why):
            log.warning("sandbox %s is not ready any more: %s", id_, why)
            await _tear_down(node, id_)
        case recovery.SandboxPending(id_):
            await _tear_down(node, id_)
        case recovery.ChildOrphaned(id_, why):
            log.warning("process %s is killed: %s", id_, why)
            await node.supervisor.kill(id_)
        case recovery.RecordStale(id_):
            await node.supervisor.forget(id_)


def _was_started(record: ExitRecord, status: ContainerStatus) -> ContainerStatus:
    """It has ended, so it was started; where the daemon was killed in between, nobody knows when."""
    if status.started_at_ns or status.finished_at_ns:
        return status
    return dataclasses.replace(status, started_at_ns=max(record.finished_at_ns, 1))


async def _tear_down(node: Node, id_: str) -> None:
    """It is NOTREADY before the first call is answered; a slow network then holds up nobody."""
    await node.records.update_sandbox(id_, lambda status: teardown.mark_stopped(status, node.now_ns()))
    node.background.start(f"teardown of sandbox {id_}", teardown.try_again(node, id_))


async def _kill_remains(node: Node, id_: str) -> None:
    cgroup = node.records.container(id_).spec.cgroup
    await node.pools.cgroups.run(node.cgroups.kill, cgroup)


async def remove_leftovers(node: Node) -> None:
    """Remove what was made for sandboxes and containers that no record knows (any more)."""
    sandboxes = frozenset(view.spec.id for view in node.records.sandboxes())
    containers = frozenset(view.spec.id for view in node.records.containers())
    # Before the pins: plugins clean up better while the namespace is there.
    await _try("network", lambda: node.networks.reconcile(set(sandboxes)))
    for id_ in await node.pools.files.run(namespaces.leftovers, node.layout, sandboxes):
        log.warning("pins of sandbox %s, which has no record, are removed", id_)
        await _try(
            f"pins of {id_}", partial(node.pools.files.run, namespaces.remove_places, node.layout, id_)
        )
    for id_ in set(node.images.snapshots.list()) - containers:
        log.warning("writable layer of container %s, which has no record, is removed", id_)
        await _try(f"layer of {id_}", partial(node.pools.files.run, node.images.snapshots.remove, id_))
    known = sandboxes | containers
    await _try("cgroups", lambda: node.pools.cgroups.run(node.cgroups.remove_unknown, known))


async def _try(what: str, work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except Exception:
        log.exception("cannot put in order: %s", what)
