"""RemoveContainer."""

from __future__ import annotations

import logging

from shim.model.container import ContainerState
from shim.services.cgroup_removal import remove_cgroup
from shim.services.containers.stop import stop_container
from shim.services.node import Node

log = logging.getLogger(__name__)


async def remove_container(node: Node, id_: str) -> None:
    """Remove a container with its writable layer; one that runs is killed first. Its log stays.

    Idempotent: a container that is unknown is removed already. It goes on when the caller leaves.
    """
    view = node.records.find_container(id_)
    if view is None:
        return
    id_ = view.spec.id
    await node.flights.join_or_start(
        ("remove", id_), None, lambda: _remove(node, id_), what=f"removal of container {id_}"
    )


async def _remove(node: Node, id_: str) -> None:
    while True:
        await stop_container(node, id_, 0)
        async with node.locks.hold(id_):
            view = node.records.find_container(id_)
            if view is None:
                return
            if view.state is ContainerState.RUNNING:  # it was started between the stop and the lock
                continue
            # The record goes last: whatever fails before leaves a container that can be removed again.
            await remove_cgroup(node, view.spec.cgroup)
            await node.pools.files.run(node.images.snapshots.remove, id_)
            await node.supervisor.forget(id_)
            await node.records.remove_container(id_)
        log.info("container %s is removed", id_)
        return
