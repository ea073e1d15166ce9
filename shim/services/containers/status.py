"""ContainerStatus."""

from __future__ import annotations

from shim.services.node import Node
from shim.services.views import ContainerView


def container_status(node: Node, id_: str) -> ContainerView:
    """Return a container, from memory alone.

    Raises:
        NotFound: no container has this id or prefix.
    """
    return node.records.container(id_)
