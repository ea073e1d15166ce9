"""StopPodSandbox."""

from __future__ import annotations

import logging
from typing import Final

from shim.services.node import Node
from shim.services.sandboxes import teardown

log = logging.getLogger(__name__)

_PROCESSES: Final = ("containers", "init")


async def stop_pod_sandbox(node: Node, id_: str) -> None:
    """Kill what runs in a sandbox, take its network down and unpin its namespaces.

    Idempotent; a sandbox that is unknown is stopped already. It goes on when the caller leaves. A network
    that cannot be taken down does not hold up the end of the pod: it stays recorded and is tried again in
    the background, with the pod's namespace until RemovePodSandbox.

    Raises:
        ShimError, OSError: a process could not be stopped.
    """
    view = node.records.find_sandbox(id_)
    if view is None:
        return
    id_ = view.spec.id
    await node.flights.join_or_start(
        ("stop sandbox", id_), None, lambda: _stop(node, id_), what=f"stop of sandbox {id_}"
    )


async def _stop(node: Node, id_: str) -> None:
    async with node.locks.hold(id_):
        view = node.records.find_sandbox(id_)
        if view is None:
            return
        failed = await teardown.tear_down(node, view.spec)
    for name in _PROCESSES:
        if name in failed:
            raise failed[name]
    log.info("sandbox %s is stopped", id_)
