"""ReopenContainerLog."""

from __future__ import annotations

from shim.errors import FailedPrecondition
from shim.model.container import ContainerState
from shim.services.node import Node


async def reopen_container_log(node: Node, id_: str) -> None:
    """Open the log file at its path again, after the kubelet has moved it away; the file exists on return.

    Raises:
        NotFound: no container has this id or prefix.
        FailedPrecondition: it does not run, so nothing is written.
    """
    view = node.records.container(id_)
    if view.state is not ContainerState.RUNNING:
        raise FailedPrecondition(
            f"cannot reopen the log of container {view.spec.id!r}: it is {view.state.name}"
        )
    await node.supervisor.reopen_log(view.spec.id)
