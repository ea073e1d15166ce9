"""PodSandboxStatus."""

from __future__ import annotations

from shim.model.sandbox import SandboxState
from shim.services.node import Node
from shim.services.views import SandboxDetails, SandboxView


def sandbox_status(node: Node, id_: str) -> SandboxDetails:
    """Return a sandbox with its containers, from memory alone.

    Raises:
        NotFound: no sandbox has this id or prefix.
    """
    view = node.records.sandbox(id_)
    return SandboxDetails(view, tuple(node.records.containers_of(view.spec.id)))


async def check_network(node: Node, view: SandboxView) -> str:
    """Return whether a pod's network is as it was made: ``ok``, what is wrong, or why nobody was asked.

    It runs CNI plugins, so it is for a person who asks about one pod.
    """
    if view.state is not SandboxState.READY:
        return "not asked: the sandbox is not ready"
    return await node.networks.check(view.spec.network, view.spec.id)
