"""LinuxContainerResources."""

from __future__ import annotations

from shim._proto import api_pb2 as cri
from shim.model.resources import HugepageLimit, Resources


def decode_resources(message: cri.LinuxContainerResources) -> Resources:
    """Return the limits that ``message`` asks for."""
    return Resources(
        cpu_period_us=message.cpu_period,
        cpu_quota_us=message.cpu_quota,
        cpu_shares=message.cpu_shares,
        memory_limit_bytes=message.memory_limit_in_bytes,
        oom_score_adj=message.oom_score_adj,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        hugepage_limits=tuple(HugepageLimit(each.page_size, each.limit) for each in message.hugepage_limits),
        unified=dict(message.unified),
        memory_swap_limit_bytes=message.memory_swap_limit_in_bytes,
    )


def encode_resources(value: Resources) -> cri.LinuxContainerResources:
    """Return ``value`` as a message."""
    return cri.LinuxContainerResources(
        cpu_period=value.cpu_period_us,
        cpu_quota=value.cpu_quota_us,
        cpu_shares=value.cpu_shares,
        memory_limit_in_bytes=value.memory_limit_bytes,
        oom_score_adj=value.oom_score_adj,
        cpuset_cpus=value.cpuset_cpus,
        cpuset_mems=value.cpuset_mems,
        hugepage_limits=[
            cri.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in value.hugepage_limits
        ],
        unified=value.unified,
        memory_swap_limit_in_bytes=value.memory_swap_limit_bytes,
    )
