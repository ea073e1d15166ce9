"""Numbers read from the kernel. ``timestamp_ns`` is when they were read; None means that nobody can know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PressureLine:
    """One line of a pressure file (kernel: Documentation/accounting/psi.rst); averages are in percent."""

    total_ns: int
    avg10: float
    avg60: float
    avg300: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """Time lost while waiting: ``some`` of the tasks, or ``full``, all of them at once."""

    some: PressureLine
    full: PressureLine


@dataclass(frozen=True, slots=True)
class CpuStats:
    """CPU time.

    Attributes:
        usage_ns: used since the cgroup was made, over all CPUs.
        nano_cores: used lately, in ns a second.
    """

    timestamp_ns: int
    usage_ns: int
    nano_cores: int | None = None
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """All in bytes but the faults; a limit of 0 means no limit.

    Attributes:
        working_set_bytes: usage less inactive file cache, as the kubelet defines it.
        swap_limit_bytes: for swap alone; 0 where there is none, or it is not known.
        swap_allowed: False where the limit of swap is 0 bytes.
    """

    timestamp_ns: int
    usage_bytes: int
    working_set_bytes: int
    rss_bytes: int
    limit_bytes: int
    page_faults: int
    major_page_faults: int
    swap_bytes: int = 0
    swap_limit_bytes: int = 0
    swap_allowed: bool = True
    cache_bytes: int = 0
    mapped_file_bytes: int = 0
    active_file_bytes: int = 0
    inactive_file_bytes: int = 0
    kernel_bytes: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class IoStats:
    """Waiting for input and output."""

    timestamp_ns: int
    pressure: Pressure


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What ContainerStats and PodSandboxStats tell of a cgroup."""

    cpu: CpuStats
    memory: MemoryStats | None
    io: IoStats | None


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """Input and output of a cgroup on one block device, counted since the cgroup was made.

    Attributes:
        device: its node, such as ``/dev/vda``; empty before it was looked up.
    """

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class HugePages:
    """Use of huge pages of one size, such as ``2MB``; ``max_bytes`` is None on cgroup v2."""

    page_size: str
    usage_bytes: int
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class CgroupDetails:
    """What metrics tell of a cgroup besides ``usage``.

    Attributes:
        periods, throttled_periods, throttled_ns: of the CPU quota.
        memory_max_bytes: the most that was ever used; None where the kernel does not keep it.
        limit_hits: how often the memory limit was reached.
        oom_kills: how often the OOM killer struck.
        tasks, tasks_max: threads, and the limit of them; 0 means no limit.
    """

    usage: CgroupUsage
    user_ns: int = 0
    system_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    memory_max_bytes: int | None = None
    limit_hits: int = 0
    oom_kills: int = 0
    tasks: int = 0
    tasks_max: int = 0
    devices: tuple[DeviceIo, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """What the processes of a cgroup hold; ``open_files_soft`` is the first one's limit, -1 for none."""

    processes: int = 0
    file_descriptors: int = 0
    sockets: int = 0
    open_files_soft: int | None = None


@dataclass(frozen=True, slots=True)
class InterfaceStats:
    """Traffic of one network interface, counted since it was made."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class NetworkStats:
    """Traffic of a pod; ``default`` is the interface that has the pod's address, None where it is gone."""

    timestamp_ns: int
    default: InterfaceStats | None
    others: tuple[InterfaceStats, ...] = ()


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """What a directory tree takes; ``mountpoint`` can be stat'ed on the host."""

    timestamp_ns: int
    mountpoint: str
    used_bytes: int
    inodes_used: int


@dataclass(frozen=True, slots=True)
class FilesystemCapacity:
    """What a file system has; ``device`` as in mountinfo, such as ``/dev/vda1``."""

    device: str
    total_bytes: int
    total_inodes: int
    free_inodes: int
