"""Metrics under the names, labels and units of cAdvisor, as a kubelet shows them at ``/metrics/cadvisor``.

What a metric is called and where its value comes from is a table. A value is a whole number in the CRI, so
times are whole seconds. Messages are put together from pieces: of the 300 bytes that one takes, all but the
value are the same for every reading of a metric, or for all metrics of a container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shim._proto import api_pb2 as cri
from shim.api import wire
from shim.model.container import ContainerSpec
from shim.model.sandbox import SandboxSpec
from shim.model.stats import DeviceIo, InterfaceStats, MemoryStats, Pressure
from shim.services.views import ContainerMetricsView, SandboxMetricsView

V = TypeVar("V")

_NS: Final = 1_000_000_000
_DEFAULT_SHARES: Final = 1024
_DEFAULT_PERIOD_US: Final = 100_000
# As in cAdvisor: the path of the cgroup, the id of the container, and whose it is.
BASE_LABELS: Final = ("id", "name", "image", "namespace", "pod", "container")

_NAME: Final = 1  # of Metric
_TIMESTAMP: Final = 2
_TYPE: Final = 3
_LABEL: Final = 4
_VALUE: Final = 5
_METRICS: Final = 2  # of ContainerMetrics and PodSandboxMetrics
_CONTAINER_METRICS: Final = 3  # of PodSandboxMetrics

Row = tuple[tuple[str, ...], int]


@dataclass(frozen=True)
class Metric(Generic[V]):
    """One line of a table.

    Attributes:
        rows: (values of the labels beyond the base ones, value) for each series; none where it is not known.
        labels: names of those labels.
    """

    name: str
    help: str
    rows: Callable[[V], Iterable[Row]]
    labels: tuple[str, ...] = ()
    type: int = cri.GAUGE

    @property
    def head(self) -> bytes:
        """Name and type as fields."""
        return wire.text(_NAME, self.name) + wire.number(_TYPE, self.type)


def one(value: Callable[[V], int | None]) -> Callable[[V], Iterable[Row]]:
    """Return the rows of a metric that has one series, or none where ``value`` returns None."""

    def rows(view: V) -> Iterable[Row]:
        found = value(view)
        return () if found is None else (((), found),)

    return rows


def _memory(value: Callable[[MemoryStats], int]) -> Callable[[ContainerMetricsView], Iterable[Row]]:
    def rows(view: ContainerMetricsView) -> Iterable[Row]:
        memory = view.cgroup.usage.memory
        return () if memory is None else (((), value(memory)),)

    return rows


def _pressure(resource: str, line: str) -> Callable[[ContainerMetricsView], Iterable[Row]]:
    def rows(view: ContainerMetricsView) -> Iterable[Row]:
        measured = getattr(view.cgroup.usage, resource)
        pressure: Pressure | None = None if measured is None else measured.pressure
        return () if pressure is None else (((), getattr(pressure, line).total_ns // _NS),)

    return rows


def _quota(value: Callable[[ContainerMetricsView], int]) -> Callable[[ContainerMetricsView], Iterable[Row]]:
    def rows(view: ContainerMetricsView) -> Iterable[Row]:
        return (((), value(view)),) if view.container.status.resources.cpu_quota_us > 0 else ()

    return rows


def _device(value: Callable[[DeviceIo], int]) -> Callable[[ContainerMetricsView], Iterable[Row]]:
    return lambda view: [((each.device,), value(each)) for each in view.cgroup.devices]


def _interface(field: str) -> Callable[[InterfaceStats], Iterable[Row]]:
    return lambda interface: (((interface.name,), getattr(interface, field)),)


def _device_usage(view: ContainerMetricsView) -> Iterator[Row]:
    for each in view.cgroup.devices:
        device = (each.device, str(each.major), str(each.minor))
        yield (*device, "Read"), each.read_bytes
        yield (*device, "Write"), each.write_bytes


def _faults(view: ContainerMetricsView) -> Iterator[Row]:
    memory = view.cgroup.usage.memory
    if memory is not None:
        for scope in ("container", "hierarchy"):
            yield ("pgfault", scope), memory.page_faults
            yield ("pgmajfault", scope), memory.major_page_faults


def _limit(value: int) -> int:
    return max(value, 0)  # -1, unlimited, is told as 0


def _reservation(view: ContainerMetricsView) -> int:
    asked = view.container.status.resources.unified.get("memory.low", "0")
    return int(asked) if asked.isdecimal() else 0


def _open_files(view: ContainerMetricsView) -> Iterable[Row]:
    soft = view.processes.open_files_soft
    return () if soft is None or soft < 0 else ((("max_open_files",), soft),)


_C = cri.COUNTER

# fmt: off
CONTAINER: Final[tuple[Metric[ContainerMetricsView], ...]] = (
    Metric("container_last_seen", "When the container was last looked at, in seconds since 1970.",
           one(lambda v: v.cgroup.usage.cpu.timestamp_ns // _NS)),
    Metric("container_start_time_seconds", "When the container was started, in seconds since 1970.",
           one(lambda v: v.container.status.started_at_ns // _NS)),
    Metric("container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.",
           one(lambda v: v.cgroup.user_ns // _NS), type=_C),
    Metric("container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.",
           one(lambda v: v.cgroup.system_ns // _NS), type=_C),
    Metric("container_cpu_usage_seconds_total", "CPU time used, in seconds.",
           lambda v: ((("total",), v.cgroup.usage.cpu.usage_ns // _NS),), ("cpu",), _C),
    Metric("container_cpu_cfs_periods_total", "Periods of the CPU quota that have passed.",
           _quota(lambda v: v.cgroup.periods), type=_C),
    Metric("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up.",
           _quota(lambda v: v.cgroup.throttled_periods), type=_C),
    Metric("container_cpu_cfs_throttled_seconds_total", "Time held back by the CPU quota, in seconds.",
           _quota(lambda v: v.cgroup.throttled_ns // _NS), type=_C),
    Metric("container_memory_cache", "Page cache, in bytes.", _memory(lambda m: m.cache_bytes)),
    Metric("container_memory_rss", "Anonymous memory, in bytes.", _memory(lambda m: m.rss_bytes)),
    Metric("container_memory_kernel_usage", "Memory of the kernel for the container, in bytes.",
           _memory(lambda m: m.kernel_bytes)),
    Metric("container_memory_mapped_file", "Files that are mapped, in bytes.",
           _memory(lambda m: m.mapped_file_bytes)),
    Metric("container_memory_swap", "Swap in use, in bytes.", _memory(lambda m: m.swap_bytes)),
    Metric("container_memory_failcnt", "How often the memory limit was reached.",
           one(lambda v: v.cgroup.limit_hits), type=_C),
    Metric("container_memory_usage_bytes", "Memory in use, caches included, in bytes.",
           _memory(lambda m: m.usage_bytes)),
    Metric("container_memory_max_usage_bytes", "The most memory that was ever in use, in bytes.",
           one(lambda v: v.cgroup.memory_max_bytes)),
    Metric("container_memory_working_set_bytes", "Memory in use less inactive file cache, in bytes.",
           _memory(lambda m: m.working_set_bytes)),
    Metric("container_memory_total_active_file_bytes", "Active file cache, in bytes.",
           _memory(lambda m: m.active_file_bytes)),
    Metric("container_memory_total_inactive_file_bytes", "Inactive file cache, in bytes.",
           _memory(lambda m: m.inactive_file_bytes)),
    Metric("container_memory_failures_total", "Page faults, by kind.",
           _faults, ("failure_type", "scope"), _C),
    Metric("container_oom_events_total", "How often the OOM killer struck.",
           one(lambda v: v.cgroup.oom_kills), type=_C),
    Metric("container_fs_reads_bytes_total", "Bytes read from a device.",
           _device(lambda d: d.read_bytes), ("device",), _C),
    Metric("container_fs_reads_total", "Reads from a device.", _device(lambda d: d.reads), ("device",), _C),
    Metric("container_fs_writes_bytes_total", "Bytes written to a device.",
           _device(lambda d: d.write_bytes), ("device",), _C),
    Metric("container_fs_writes_total", "Writes to a device.", _device(lambda d: d.writes), ("device",), _C),
    Metric("container_blkio_device_usage_total", "Bytes moved from and to a device, by operation.",
           _device_usage, ("device", "major", "minor", "operation"), _C),
    Metric("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.",
           lambda v: [((h.page_size,), h.usage_bytes) for h in v.cgroup.huge_pages], ("pagesize",)),
    Metric("container_hugetlb_max_usage_bytes", "The most huge pages that were ever in use, in bytes.",
           lambda v: [((h.page_size,), h.max_bytes) for h in v.cgroup.huge_pages if h.max_bytes is not None],
           ("pagesize",)),
    Metric("container_processes", "Processes.", one(lambda v: v.processes.processes)),
    Metric("container_threads", "Threads.", one(lambda v: v.cgroup.tasks)),
    Metric("container_threads_max", "Limit of threads; 0 means none.", one(lambda v: v.cgroup.tasks_max)),
    Metric("container_file_descriptors", "Open file descriptors.",
           one(lambda v: v.processes.file_descriptors)),
    Metric("container_sockets", "Open sockets.", one(lambda v: v.processes.sockets)),
    Metric("container_ulimits_soft", "Soft limits of the first process; without a limit there is no value.",
           _open_files, ("ulimit",)),
    Metric("container_spec_cpu_period", "Period of the CPU quota, in microseconds.",
           one(lambda v: v.container.status.resources.cpu_period_us or _DEFAULT_PERIOD_US)),
    Metric("container_spec_cpu_quota", "CPU time for each period, in microseconds.",
           _quota(lambda v: v.container.status.resources.cpu_quota_us)),
    Metric("container_spec_cpu_shares", "Share of the CPU time.",
           one(lambda v: v.container.status.resources.cpu_shares or _DEFAULT_SHARES)),
    Metric("container_spec_memory_limit_bytes", "Memory limit, in bytes; 0 means none.",
           one(lambda v: _limit(v.container.status.resources.memory_limit_bytes))),
    Metric("container_spec_memory_swap_limit_bytes", "Limit of memory and swap, in bytes; 0 means none.",
           one(lambda v: _limit(v.container.status.resources.memory_swap_limit_bytes))),
    Metric("container_spec_memory_reservation_limit_bytes", "Memory that is protected, in bytes.",
           one(_reservation)),
    Metric("container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for the CPU.",
           _pressure("cpu", "some"), type=_C),
    Metric("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for the CPU.",
           _pressure("cpu", "full"), type=_C),
    Metric("container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory.",
           _pressure("memory", "some"), type=_C),
    Metric("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory.",
           _pressure("memory", "full"), type=_C),
    Metric("container_pressure_io_waiting_seconds_total", "Time in which some task waited for I/O.",
           _pressure("io", "some"), type=_C),
    Metric("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for I/O.",
           _pressure("io", "full"), type=_C),
)

# Of the file system that the writable layer lies on.
DISK: Final[tuple[Metric[tuple[SandboxMetricsView, ContainerMetricsView]], ...]] = (
    Metric("container_fs_usage_bytes", "Writable layer and logs, in bytes.",
           lambda v: (((v[0].capacity.device,), v[1].disk_bytes),), ("device",)),
    Metric("container_fs_limit_bytes", "Size of the file system of the writable layer, in bytes.",
           lambda v: (((v[0].capacity.device,), v[0].capacity.total_bytes),), ("device",)),
    Metric("container_fs_inodes_total", "Inodes of the file system of the writable layer.",
           lambda v: (((v[0].capacity.device,), v[0].capacity.total_inodes),), ("device",)),
    Metric("container_fs_inodes_free", "Free inodes of the file system of the writable layer.",
           lambda v: (((v[0].capacity.device,), v[0].capacity.free_inodes),), ("device",)),
)

NETWORK: Final[tuple[Metric[InterfaceStats], ...]] = tuple(
    Metric(f"container_network_{name}_total", text, _interface(field), ("interface",), _C)
    for name, text, field in (
        ("receive_bytes", "Bytes received.", "rx_bytes"),
        ("receive_packets", "Packets received.", "rx_packets"),
        ("receive_packets_dropped", "Packets dropped while they were received.", "rx_dropped"),
        ("receive_errors", "Errors while receiving.", "rx_errors"),
        ("transmit_bytes", "Bytes sent.", "tx_bytes"),
        ("transmit_packets", "Packets sent.", "tx_packets"),
        ("transmit_packets_dropped", "Packets dropped while they were sent.", "tx_dropped"),
        ("transmit_errors", "Errors while sending.", "tx_errors"),
    )
)
# fmt: on


def descriptors() -> list[cri.MetricDescriptor]:
    """Return what there is, in the order of the tables."""
    known = [(each.name, each.help, each.labels) for each in CONTAINER]
    known += [(each.name, each.help, each.labels) for each in DISK]
    known += [(each.name, each.help, each.labels) for each in NETWORK]
    return [
        cri.MetricDescriptor(name=name, help=text, label_keys=[*BASE_LABELS, *labels])
        for name, text, labels in known
    ]


def encode_sandbox_metrics(view: SandboxMetricsView) -> bytes:
    """Return PodSandboxMetrics."""
    spec = view.spec
    parts = [wire.text(1, spec.id)]
    base = _base(_pod_labels(spec), view.timestamp_ns)
    network = view.network
    if network is not None:
        first = () if network.default is None else (network.default,)
        for interface in (*first, *network.others):
            _encode(_NETWORK_HEADS, interface, base, parts)
    parts += [wire.data(_CONTAINER_METRICS, _encode_container(view, each)) for each in view.containers]
    return b"".join(parts)


def _encode_container(pod: SandboxMetricsView, view: ContainerMetricsView) -> bytes:
    spec = view.container.spec
    parts = [wire.text(1, spec.id)]
    base = _base(_container_labels(pod.spec, spec), view.cgroup.usage.cpu.timestamp_ns)
    _encode(_CONTAINER_HEADS, view, base, parts)
    _encode(_DISK_HEADS, (pod, view), base, parts)
    return b"".join(parts)


def _pod_labels(spec: SandboxSpec) -> tuple[str, ...]:
    metadata = spec.config.metadata
    return spec.cgroup_parent, spec.id, "", metadata.namespace, metadata.name, ""


def _container_labels(pod: SandboxSpec, spec: ContainerSpec) -> tuple[str, ...]:
    metadata, image = pod.config.metadata, spec.config.image
    name = image.user_specified_image or image.image
    return spec.cgroup, spec.id, name, metadata.namespace, metadata.name, spec.config.metadata.name


def _base(labels: Iterable[str], timestamp_ns: int) -> bytes:
    """Return the fields that all metrics of a container share."""
    return b"".join([*(wire.text(_LABEL, label) for label in labels), wire.number(_TIMESTAMP, timestamp_ns)])


_Heads = tuple[tuple[bytes, Callable[[V], Iterable[Row]]], ...]
_METRIC_TAG: Final = wire.varint(_METRICS << 3 | 2)
_VALUE_TAG: Final = wire.varint(_VALUE << 3 | 2)


def _heads(metrics: Iterable[Metric[V]]) -> _Heads[V]:
    return tuple((each.head, each.rows) for each in metrics)


_CONTAINER_HEADS: Final = _heads(CONTAINER)
_DISK_HEADS: Final = _heads(DISK)
_NETWORK_HEADS: Final = _heads(NETWORK)


def _encode(heads: _Heads[V], view: V, base: bytes, parts: list[bytes]) -> None:
    varint, label_field = wire.varint, wire.text
    for head, rows in heads:
        for labels, value in rows(view):
            wrapped = wire.number(1, value)
            end = _VALUE_TAG + varint(len(wrapped)) + wrapped
            if labels:
                end = b"".join([label_field(_LABEL, label) for label in labels]) + end
            parts += (_METRIC_TAG, varint(len(head) + len(base) + len(end)), head, base, end)
