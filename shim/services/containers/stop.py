"""StopContainer."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

from shim.model.container import ContainerState, ContainerStatus
from shim.services.containers.stopping import Stopping
from shim.services.node import Node
from shim.services.views import ContainerView

log = logging.getLogger(__name__)


async def stop_container(node: Node, id_: str, timeout_s: float) -> None:
    """Stop a container: its stop signal, a grace of ``timeout_s``, then SIGKILL to all that is in it.

    Idempotent: a container that is unknown or does not run is stopped already. All calls for one container
    share one stop, with one stop signal; a call with less time left shortens it. It goes on when the
    callers leave.

    Args:
        node: where.
        id_: a whole id or a prefix.
        timeout_s: 0 or less kills at once.
    """
    view = node.records.find_container(id_)
    if view is None:
        return
    id_ = view.spec.id
    async with node.locks.hold(id_):  # a start that is under way comes to its end first
        view = node.records.find_container(id_)
    if view is None or view.state not in (ContainerState.RUNNING, ContainerState.UNKNOWN):
        return
    under_way = node.stops.get(id_)
    if under_way is not None:
        stopping, task = under_way
        stopping.shorten(timeout_s)
    else:
        stopping = _stopping(node, view, timeout_s)
        task = node.background.task(f"stop of container {id_}", stopping.run())
        node.stops[id_] = (stopping, task)
        task.add_done_callback(lambda _: node.stops.pop(id_, None))
    await asyncio.shield(task)


def _stopping(node: Node, view: ContainerView, timeout_s: float) -> Stopping:
    spec = view.spec

    async def send_signal() -> None:
        status = node.records.container(spec.id).status
        if status.stop_requested_ns or status.process is None:
            return  # sent before the daemon was started again
        node.send_signal(status.process, spec.stop_signal)
        await node.records.update_container(spec.id, requested)

    def requested(status: ContainerStatus) -> ContainerStatus:
        return dataclasses.replace(status, stop_requested_ns=node.now_ns())

    async def kill() -> None:
        await node.pools.cgroups.run(node.cgroups.kill, spec.cgroup)

    async def exited() -> None:
        view = node.records.find_container(spec.id)
        if view is not None and not view.status.finished_at_ns:
            await asyncio.shield(node.waiters.expect(spec.id))

    return Stopping(send_signal, kill, exited, timeout_s)
