"""Numbers read from the kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuStats:
    """``usage_ns``: CPU time used since the cgroup was made."""

    timestamp_ns: int
    usage_ns: int


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """All in bytes but the faults; ``limit_bytes`` 0 means no limit.

    ``working_set_bytes`` is usage less inactive file cache, as the kubelet defines it.
    """

    timestamp_ns: int
    usage_bytes: int
    working_set_bytes: int
    rss_bytes: int
    limit_bytes: int
    page_faults: int
    major_page_faults: int
    swap_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """What a directory tree takes; ``mountpoint`` can be stat'ed on the host."""

    timestamp_ns: int
    mountpoint: str
    used_bytes: int
    inodes_used: int
