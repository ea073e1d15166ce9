"""Numbers."""

from __future__ import annotations

from shim._proto import api_pb2 as cri
from shim.api.convert.container import encode_metadata
from shim.model import stats
from shim.services.views import ContainerStatsView


def _number(value: int) -> cri.UInt64Value:
    return cri.UInt64Value(value=max(value, 0))


def encode_filesystem(value: stats.FilesystemUsage) -> cri.FilesystemUsage:
    """Return disk use as a message."""
    return cri.FilesystemUsage(
        timestamp=value.timestamp_ns,
        fs_id=cri.FilesystemIdentifier(mountpoint=value.mountpoint),
        used_bytes=_number(value.used_bytes),
        inodes_used=_number(value.inodes_used),
    )


def _encode_memory(value: stats.MemoryStats) -> cri.MemoryUsage:
    limit = value.limit_bytes
    return cri.MemoryUsage(
        timestamp=value.timestamp_ns,
        working_set_bytes=_number(value.working_set_bytes),
        available_bytes=_number(limit - value.working_set_bytes) if limit else None,
        usage_bytes=_number(value.usage_bytes),
        rss_bytes=_number(value.rss_bytes),
        page_faults=_number(value.page_faults),
        major_page_faults=_number(value.major_page_faults),
    )


def encode_container_stats(view: ContainerStatsView) -> cri.ContainerStats:
    """Return the numbers of a container as a message; what is not known is not set, rather than 0."""
    spec = view.spec
    message = cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=spec.id,
            metadata=encode_metadata(spec.config.metadata),
            labels=spec.config.labels,
            annotations=spec.config.annotations,
        )
    )
    if view.cpu is not None:
        message.cpu.timestamp = view.cpu.timestamp_ns
        message.cpu.usage_core_nano_seconds.value = view.cpu.usage_ns
    if view.memory is not None:
        message.memory.CopyFrom(_encode_memory(view.memory))
        message.swap.timestamp = view.memory.timestamp_ns
        message.swap.swap_usage_bytes.value = max(view.memory.swap_bytes, 0)
    if view.writable_layer is not None:
        message.writable_layer.CopyFrom(encode_filesystem(view.writable_layer))
    return message
