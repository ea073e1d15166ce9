"""RemovePodSandbox."""

from __future__ import annotations

import logging

from shim.errors import Unavailable
from shim.services.containers.remove import remove_container
from shim.services.node import Node
from shim.services.sandboxes import teardown
from shim.services.sandboxes.stop import stop_pod_sandbox

log = logging.getLogger(__name__)


async def remove_pod_sandbox(node: Node, id_: str) -> None:
    """Remove a sandbox with its containers; what runs is killed first.

    Idempotent; a sandbox that is unknown is removed already. It goes on when the caller leaves. A CNI plugin
    that fails does not hold it up: its DEL stays recorded and is tried again in the background.

    Raises:
        Unavailable: something of it cannot be taken down yet; it stays NOTREADY and is tried again.
    """
    view = node.records.find_sandbox(id_)
    if view is None:
        return
    id_ = view.spec.id
    await node.flights.join_or_start(
        ("remove sandbox", id_), None, lambda: _remove(node, id_), what=f"removal of sandbox {id_}"
    )


async def _remove(node: Node, id_: str) -> None:
    await stop_pod_sandbox(node, id_)
    for container in node.records.containers_of(id_):
        await remove_container(node, container.spec.id)
    async with node.locks.hold(id_):
        view = node.records.find_sandbox(id_)
        if view is None:
            return
        await teardown.let_go_of_network(node, view.spec)
        failed = await teardown.tear_down(node, view.spec)
        if failed:
            name, error = next(iter(failed.items()))
            raise Unavailable(
                f"cannot remove sandbox {id_!r} yet: its {name} cannot be taken down: {error}; "
                "it is tried again"
            )
        await teardown.forget(node, view.spec)
    log.info("sandbox %s is removed", id_)
