"""ContainerStats and ListContainerStats: CPU, memory, writable layer."""

from __future__ import annotations

import logging

from shim.model.container import ContainerState
from shim.model.stats import FilesystemUsage
from shim.services.containers.list import list_containers
from shim.services.node import Node
from shim.services.views import ContainerFilter, ContainerStatsView, ContainerView

log = logging.getLogger(__name__)


async def container_stats(node: Node, id_: str) -> ContainerStatsView:
    """Return the numbers of one container.

    Raises:
        NotFound: no container has this id or prefix.
    """
    return await node.pools.stats.run(_measure, node, node.records.container(id_))


async def list_container_stats(node: Node, wanted: ContainerFilter | None = None) -> list[ContainerStatsView]:
    """Return the numbers of all containers that match and run; one that ends meanwhile is left out."""
    running = [view for view in list_containers(node, wanted) if view.state is ContainerState.RUNNING]
    return await node.pools.stats.run(_measure_all, node, running)


def _measure_all(node: Node, views: list[ContainerView]) -> list[ContainerStatsView]:
    measured = (_measure(node, view) for view in views)
    return [each for each in measured if each.cpu is not None]


def _measure(node: Node, view: ContainerView) -> ContainerStatsView:
    layer = _writable_layer(node, view)
    if view.state is not ContainerState.RUNNING:
        return ContainerStatsView(view.spec, None, None, layer)
    try:
        cpu, memory = node.cgroups.cpu(view.spec.cgroup), node.cgroups.memory(view.spec.cgroup)
    except OSError as error:  # its cgroup goes when it ends
        log.debug("container %s: no numbers: %s", view.spec.id, error)
        return ContainerStatsView(view.spec, None, None, layer)
    return ContainerStatsView(view.spec, cpu, memory, layer)


def _writable_layer(node: Node, view: ContainerView) -> FilesystemUsage | None:
    return node.images.snapshots.usage(view.spec.id)
