"""Reading the numbers of containers and sandboxes from the kernel. Blocking: in the thread of the statistics.

What takes long is not read here: writable layers and logs are measured in the background. A pod's cgroup is
the kubelet's; where a pod has none for itself, its numbers are the sum of its containers'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from shim.errors import KernelError
from shim.kernel import proc
from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.model.stats import (
    CgroupUsage,
    CpuStats,
    FilesystemCapacity,
    MemoryStats,
    NetworkStats,
    ProcessStats,
)
from shim.services.node import Node
from shim.services.views import (
    ContainerMetricsView,
    ContainerStatsView,
    ContainerView,
    SandboxMetricsView,
    SandboxStatsView,
    SandboxView,
)

log = logging.getLogger(__name__)


def container_stats(node: Node, view: ContainerView) -> ContainerStatsView:
    """Return the numbers of a container; of one that does not run, its writable layer."""
    layer = node.images.snapshots.usage(view.spec.id)
    if view.state is not ContainerState.RUNNING:
        return ContainerStatsView(view.spec, None, None, layer)
    try:
        usage = node.cgroups.usage(view.spec.cgroup)
    except KernelError as error:  # its cgroup goes when it ends
        log.debug("container %s: no numbers: %s", view.spec.id, error)
        return ContainerStatsView(view.spec, None, None, layer)
    cpu = _with_rate(node, view.spec.id, usage.cpu, view.status.started_at_ns)
    return ContainerStatsView(view.spec, cpu, usage.memory, layer, usage.io)


def sandbox_stats(
    node: Node, view: SandboxView, containers: Iterable[ContainerView], *, alone: bool
) -> SandboxStatsView:
    """Return the numbers of a sandbox and its containers; of one that is not ready, nothing but who it is.

    Args:
        node: where.
        view: the sandbox.
        containers: those in it that run.
        alone: whether its cgroup is no other sandbox's.
    """
    if view.state is not SandboxState.READY:
        return SandboxStatsView(view.spec)
    members = tuple(stats for each in containers if (stats := container_stats(node, each)).cpu is not None)
    usage = pod_usage(node, view) if alone else None
    cpu, memory, io = sum_cpu(members), sum_memory(members), None
    if usage is not None:
        cpu = _with_rate(node, view.spec.id, usage.cpu, view.status.ready_at_ns)
        memory, io = usage.memory, usage.io
    now = time.time_ns()
    count = sum(len(node.cgroups.processes(each.spec.cgroup)) for each in members)
    count += view.spec.id in node.inits
    return SandboxStatsView(view.spec, cpu, memory, io, traffic(node, view), now, count, members)


def sandbox_metrics(
    node: Node,
    view: SandboxView,
    containers: Iterable[ContainerView],
    capacity: FilesystemCapacity,
    *,
    alone: bool,
) -> SandboxMetricsView:
    """Return what metrics tell of a sandbox that is ready, and of the containers that run in it."""
    found = (_container_metrics(node, each) for each in containers)
    members = tuple(each for each in found if each is not None)
    usage = pod_usage(node, view) if alone else None
    return SandboxMetricsView(view.spec, time.time_ns(), capacity, usage, traffic(node, view), members)


def pod_usage(node: Node, view: SandboxView) -> CgroupUsage | None:
    """Return the numbers of the cgroup that a kubelet made for the pod; None where there is none."""
    if not view.spec.config.cgroup_parent:
        return None
    with contextlib.suppress(KernelError):
        return node.cgroups.usage(view.spec.cgroup_parent)
    return None


def traffic(node: Node, view: SandboxView) -> NetworkStats | None:
    """Return what went through a pod's interfaces; None for one on the node's network."""
    path = view.spec.pins.get("net")
    if path is None:
        return None
    try:
        return node.traffic.read(path, view.status.network.interface if view.status.network else "")
    except OSError as error:  # it was stopped meanwhile
        log.debug("sandbox %s: no numbers of its network: %s", view.spec.id, error)
        return None


def shared_parents(views: Iterable[SandboxView]) -> frozenset[str]:
    """Return the cgroups that more than one sandbox has for its own. Pure."""
    parents = Counter(view.spec.cgroup_parent for view in views if view.state is SandboxState.READY)
    return frozenset(path for path, count in parents.items() if count > 1)


def sum_cpu(members: Sequence[ContainerStatsView]) -> CpuStats | None:
    """Return CPU time of all; None where there are none. Pure."""
    found = [each.cpu for each in members if each.cpu is not None]
    if not found:
        return None
    return CpuStats(
        max(each.timestamp_ns for each in found),
        sum(each.usage_ns for each in found),
        sum(each.nano_cores or 0 for each in found),
    )


def sum_memory(members: Sequence[ContainerStatsView]) -> MemoryStats | None:
    """Return memory of all, without limits; None where there are none. Pure."""
    found = [each.memory for each in members if each.memory is not None]
    if not found:
        return None

    def total(of: Callable[[MemoryStats], int]) -> int:
        return sum(map(of, found))

    return MemoryStats(
        timestamp_ns=max(each.timestamp_ns for each in found),
        usage_bytes=total(lambda each: each.usage_bytes),
        working_set_bytes=total(lambda each: each.working_set_bytes),
        rss_bytes=total(lambda each: each.rss_bytes),
        limit_bytes=0,
        page_faults=total(lambda each: each.page_faults),
        major_page_faults=total(lambda each: each.major_page_faults),
        swap_bytes=total(lambda each: each.swap_bytes),
    )


def _container_metrics(node: Node, view: ContainerView) -> ContainerMetricsView | None:
    id_ = view.spec.id
    try:
        cgroup = node.cgroups.details(view.spec.cgroup)
        pids = node.cgroups.processes(view.spec.cgroup)
    except KernelError as error:
        log.debug("container %s: no metrics: %s", id_, error)
        return None
    layer = node.images.snapshots.usage(id_)
    disk_bytes = (layer.used_bytes if layer else 0) + node.logs.get(id_)[0]
    first = view.status.process.pid if view.status.process is not None else 0
    return ContainerMetricsView(view, cgroup, process_stats(pids, first), disk_bytes)


def process_stats(pids: Sequence[int], first: int) -> ProcessStats:
    """Return what processes hold; one that ends meanwhile holds nothing.

    Args:
        pids: of a cgroup.
        first: the one whose limits are told.
    """
    descriptors = sockets = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = proc.open_files(pid)
            descriptors, sockets = descriptors + found[0], sockets + found[1]
    soft = None
    if first in pids:
        with contextlib.suppress(OSError, ValueError):
            soft = resource.prlimit(first, resource.RLIMIT_NOFILE)[0]
    return ProcessStats(len(pids), descriptors, sockets, soft)


def _with_rate(node: Node, id_: str, cpu: CpuStats, began_ns: int) -> CpuStats:
    rate = node.rates.note(id_, cpu.timestamp_ns, cpu.usage_ns, began_ns)
    return dataclasses.replace(cpu, nano_cores=rate)
