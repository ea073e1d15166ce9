"""PodSandboxStatus."""

from __future__ import annotations

from shim.services.node import Node
from shim.services.views import SandboxDetails


def sandbox_status(node: Node, id_: str) -> SandboxDetails:
    """Return a sandbox with its containers, from memory alone.

    Raises:
        NotFound: no sandbox has this id or prefix.
    """
    view = node.records.sandbox(id_)
    return SandboxDetails(view, tuple(node.records.containers_of(view.spec.id)))
