"""ListContainers."""

from __future__ import annotations

import dataclasses

from shim.services.node import Node
from shim.services.views import ContainerFilter, ContainerView, whole_id


def list_containers(node: Node, wanted: ContainerFilter | None = None) -> list[ContainerView]:
    """Return the containers that match, from memory alone."""
    wanted = wanted or ContainerFilter()
    whole = dataclasses.replace(
        wanted,
        id=whole_id(wanted.id, node.records.resolve_container),
        sandbox_id=whole_id(wanted.sandbox_id, node.records.resolve_sandbox),
    )
    return [view for view in node.records.containers() if whole.matches(view)]
