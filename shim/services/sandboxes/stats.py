"""PodSandboxStats and ListPodSandboxStats, and what metrics tell of sandboxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Final

from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.services import measuring
from shim.services.node import Node
from shim.services.sandboxes.list import list_sandboxes
from shim.services.views import (
    ContainerView,
    SandboxFilter,
    SandboxMetricsView,
    SandboxStatsView,
    SandboxView,
)

AT_ONCE: Final = 8  # sandboxes that are read before others get the thread

_Pod = tuple[SandboxView, Sequence[ContainerView], bool]


async def sandbox_stats(node: Node, id_: str) -> SandboxStatsView:
    """Return the numbers of one sandbox.

    Raises:
        NotFound: no sandbox has this id or prefix.
    """
    view = node.records.sandbox(id_)
    running = [each for each in node.records.containers_of(view.spec.id) if _runs(each)]
    shared = measuring.shared_parents(node.records.sandboxes())
    pod = (view, running, view.spec.cgroup_parent not in shared)
    return (await node.pools.stats.run(_measure, node, [pod]))[0]


async def list_sandbox_stats(
    node: Node, wanted: SandboxFilter | None = None
) -> AsyncIterator[list[SandboxStatsView]]:
    """Yield the numbers of all sandboxes that match and are ready, some at a time."""
    pods = _ready(node, wanted)
    for begin in range(0, len(pods), AT_ONCE):
        yield await node.pools.stats.run(_measure, node, pods[begin : begin + AT_ONCE])


async def list_sandbox_metrics(node: Node) -> AsyncIterator[list[SandboxMetricsView]]:
    """Yield what metrics tell of all sandboxes that are ready, some at a time."""
    pods = _ready(node, None)
    for begin in range(0, len(pods), AT_ONCE):
        yield await node.pools.stats.run(_read_metrics, node, pods[begin : begin + AT_ONCE])


def _ready(node: Node, wanted: SandboxFilter | None) -> list[_Pod]:
    running: dict[str, list[ContainerView]] = defaultdict(list)
    for each in node.records.containers():
        if _runs(each):
            running[each.spec.sandbox_id].append(each)
    shared = measuring.shared_parents(node.records.sandboxes())
    return [
        (view, running.get(view.spec.id, ()), view.spec.cgroup_parent not in shared)
        for view in list_sandboxes(node, wanted)
        if view.state is SandboxState.READY
    ]


def _runs(view: ContainerView) -> bool:
    return view.state is ContainerState.RUNNING


def _measure(node: Node, pods: Sequence[_Pod]) -> list[SandboxStatsView]:
    return [measuring.sandbox_stats(node, view, inside, alone=alone) for view, inside, alone in pods]


def _read_metrics(node: Node, pods: Sequence[_Pod]) -> list[SandboxMetricsView]:
    capacity = node.images.capacity()
    return [
        measuring.sandbox_metrics(node, view, inside, capacity, alone=alone) for view, inside, alone in pods
    ]
