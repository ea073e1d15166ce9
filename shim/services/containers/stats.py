"""ContainerStats and ListContainerStats: CPU, memory, waiting, writable layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from shim.model.container import ContainerState
from shim.services import measuring
from shim.services.containers.list import list_containers
from shim.services.node import Node
from shim.services.views import ContainerFilter, ContainerStatsView, ContainerView

AT_ONCE: Final = 64  # containers that are read before others get the thread


async def container_stats(node: Node, id_: str) -> ContainerStatsView:
    """Return the numbers of one container.

    Raises:
        NotFound: no container has this id or prefix.
    """
    return await node.pools.stats.run(measuring.container_stats, node, node.records.container(id_))


async def list_container_stats(
    node: Node, wanted: ContainerFilter | None = None
) -> AsyncIterator[list[ContainerStatsView]]:
    """Yield the numbers of all containers that match and run, some at a time.

    One that ends meanwhile is left out.
    """
    running = [view for view in list_containers(node, wanted) if view.state is ContainerState.RUNNING]
    for begin in range(0, len(running), AT_ONCE):
        yield await node.pools.stats.run(_measure, node, running[begin : begin + AT_ONCE])


def _measure(node: Node, views: list[ContainerView]) -> list[ContainerStatsView]:
    measured = (measuring.container_stats(node, view) for view in views)
    return [each for each in measured if each.cpu is not None]
