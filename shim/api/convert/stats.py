"""Numbers. What is not known is not set, rather than 0."""

from __future__ import annotations

from shim._proto import api_pb2 as cri
from shim.api import wire
from shim.api.convert import container, sandbox
from shim.model import stats
from shim.model.container import ContainerSpec
from shim.model.sandbox import SandboxSpec
from shim.services.views import ContainerStatsView, SandboxStatsView

_ATTRIBUTES = 1  # of ContainerStats, PodSandboxStats
_LINUX = 2  # of PodSandboxStats
_CONTAINERS = 5  # of LinuxPodSandboxStats


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


def container_attributes(spec: ContainerSpec) -> bytes:
    """Return who a container is, as the field of ContainerStats."""
    message = cri.ContainerAttributes(
        id=spec.id,
        metadata=container.encode_metadata(spec.config.metadata),
        labels=spec.config.labels,
        annotations=spec.config.annotations,
    )
    return wire.data(_ATTRIBUTES, message.SerializeToString())


def sandbox_attributes(spec: SandboxSpec) -> bytes:
    """Return who a sandbox is, as the field of PodSandboxStats."""
    message = cri.PodSandboxAttributes(
        id=spec.id,
        metadata=sandbox.encode_metadata(spec.config.metadata),
        labels=spec.config.labels,
        annotations=spec.config.annotations,
    )
    return wire.data(_ATTRIBUTES, message.SerializeToString())


def encode_container_numbers(view: ContainerStatsView) -> cri.ContainerStats:
    """Return the numbers of a container as a message that does not say whose they are."""
    memory = view.memory
    return cri.ContainerStats(
        cpu=_encode_cpu(view.cpu),
        memory=_encode_memory(memory),
        writable_layer=encode_filesystem(view.writable_layer) if view.writable_layer is not None else None,
        swap=_encode_swap(memory) if memory is not None else None,
        io=_encode_io(view.io),
    )


def encode_sandbox_numbers(view: SandboxStatsView) -> cri.LinuxPodSandboxStats:
    """Return the numbers of a sandbox as a message, without those of its containers."""
    process = None
    if view.timestamp_ns:
        process = cri.ProcessUsage(timestamp=view.timestamp_ns, process_count=_number(view.processes))
    return cri.LinuxPodSandboxStats(
        cpu=_encode_cpu(view.cpu),
        memory=_encode_memory(view.memory),
        network=_encode_network(view.network) if view.network is not None else None,
        process=process,
        io=_encode_io(view.io),
    )


def join_sandbox(attributes: bytes, numbers: cri.LinuxPodSandboxStats, containers: list[bytes]) -> bytes:
    """Return PodSandboxStats of pieces: whose, its numbers, and ContainerStats."""
    linux = [numbers.SerializeToString(), *(wire.data(_CONTAINERS, each) for each in containers)]
    return attributes + wire.data(_LINUX, b"".join(linux))


def _encode_pressure(value: stats.Pressure | None) -> cri.PsiStats | None:
    if value is None:
        return None
    return cri.PsiStats(Full=_encode_line(value.full), Some=_encode_line(value.some))


def _encode_line(value: stats.PressureLine) -> cri.PsiData:
    return cri.PsiData(Total=value.total_ns, Avg10=value.avg10, Avg60=value.avg60, Avg300=value.avg300)


def _encode_cpu(value: stats.CpuStats | None) -> cri.CpuUsage | None:
    if value is None:
        return None
    return cri.CpuUsage(
        timestamp=value.timestamp_ns,
        usage_core_nano_seconds=_number(value.usage_ns),
        usage_nano_cores=_number(value.nano_cores) if value.nano_cores is not None else None,
        psi=_encode_pressure(value.pressure),
    )


def _encode_memory(value: stats.MemoryStats | None) -> cri.MemoryUsage | None:
    if value is None:
        return None
    limit = value.limit_bytes
    return cri.MemoryUsage(
        timestamp=value.timestamp_ns,
        working_set_bytes=_number(value.working_set_bytes),
        available_bytes=_number(limit - value.working_set_bytes) if limit else None,
        usage_bytes=_number(value.usage_bytes),
        rss_bytes=_number(value.rss_bytes),
        page_faults=_number(value.page_faults),
        major_page_faults=_number(value.major_page_faults),
        psi=_encode_pressure(value.pressure),
    )


def _encode_swap(value: stats.MemoryStats) -> cri.SwapUsage:
    limited = value.swap_limit_bytes or not value.swap_allowed
    return cri.SwapUsage(
        timestamp=value.timestamp_ns,
        swap_available_bytes=_number(value.swap_limit_bytes - value.swap_bytes) if limited else None,
        swap_usage_bytes=_number(value.swap_bytes),
    )


def _encode_io(value: stats.IoStats | None) -> cri.IoUsage | None:
    if value is None:
        return None
    return cri.IoUsage(timestamp=value.timestamp_ns, psi=_encode_pressure(value.pressure))


def _encode_network(value: stats.NetworkStats) -> cri.NetworkUsage:
    return cri.NetworkUsage(
        timestamp=value.timestamp_ns,
        default_interface=_encode_interface(value.default) if value.default is not None else None,
        interfaces=[_encode_interface(each) for each in value.others],
    )


def _encode_interface(value: stats.InterfaceStats) -> cri.NetworkInterfaceUsage:
    return cri.NetworkInterfaceUsage(
        name=value.name,
        rx_bytes=_number(value.rx_bytes),
        rx_errors=_number(value.rx_errors),
        tx_bytes=_number(value.tx_bytes),
        tx_errors=_number(value.tx_errors),
    )
