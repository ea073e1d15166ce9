"""CPU and memory use of a cgroup, on both versions."""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from shim.cgroups.hierarchy import Hierarchy
from shim.errors import KernelError
from shim.kernel import cgroupfs
from shim.model.stats import CpuStats, MemoryStats

# Version 1 says "no limit" with the largest number of whole pages; nothing real comes near.
_NO_LIMIT: Final = 1 << 62


def read_cpu(h: Hierarchy, path: str) -> CpuStats:
    """Return CPU use.

    Raises:
        KernelError: the cgroup is gone, or has no such controller.
    """
    directory = _directory(h, "cpuacct" if h.v1 else "cpu", path)
    now = time.time_ns()
    if h.v1:
        return CpuStats(now, int(cgroupfs.read(os.path.join(directory, "cpuacct.usage"))))
    usage_us = parse_flat(cgroupfs.read(os.path.join(directory, "cpu.stat")))["usage_usec"]
    return CpuStats(now, usage_us * 1000)


def read_memory(h: Hierarchy, path: str) -> MemoryStats:
    """Return memory use.

    Raises:
        KernelError: the cgroup is gone, or has no such controller.
    """
    directory = _directory(h, "memory", path)
    now = time.time_ns()
    stat = parse_flat(cgroupfs.read(os.path.join(directory, "memory.stat")))
    if h.v1:
        usage = int(cgroupfs.read(os.path.join(directory, "memory.usage_in_bytes")))
        limit = parse_limit(cgroupfs.read(os.path.join(directory, "memory.limit_in_bytes")))
        return memory_v1(now, usage, limit, stat)
    usage = int(cgroupfs.read(os.path.join(directory, "memory.current")))
    limit = parse_limit(cgroupfs.read(os.path.join(directory, "memory.max")))
    return memory_v2(now, usage, limit, _swap_v2(directory), stat)


def memory_v1(now_ns: int, usage: int, limit: int, stat: dict[str, int]) -> MemoryStats:
    """Return the numbers of version 1; those that begin with ``total_`` count the cgroups below too. Pure."""
    return MemoryStats(
        now_ns,
        usage,
        max(usage - stat.get("total_inactive_file", 0), 0),
        stat.get("total_rss", 0),
        limit,
        stat.get("total_pgfault", 0),
        stat.get("total_pgmajfault", 0),
        stat.get("total_swap", 0),
    )


def memory_v2(now_ns: int, usage: int, limit: int, swap: int, stat: dict[str, int]) -> MemoryStats:
    """Return the numbers of version 2. Pure."""
    return MemoryStats(
        now_ns,
        usage,
        max(usage - stat.get("inactive_file", 0), 0),
        stat.get("anon", 0),
        limit,
        stat.get("pgfault", 0),
        stat.get("pgmajfault", 0),
        swap,
    )


def parse_flat(text: str) -> dict[str, int]:
    """Return a flat keyed file, ``name number`` on each line, as a dict."""
    return {name: int(value) for name, _, value in (line.partition(" ") for line in text.splitlines())}


def parse_limit(text: str) -> int:
    """Return a limit; 0 for none."""
    value = text.strip()
    if value == "max":
        return 0
    return limit if (limit := int(value)) < _NO_LIMIT else 0


def _swap_v2(directory: str) -> int:
    try:
        return int(cgroupfs.read(os.path.join(directory, "memory.swap.current")))
    except KernelError as error:
        if error.errno == errno.ENOENT:  # a kernel without swap
            return 0
        raise


def _directory(h: Hierarchy, controller: str, path: str) -> str:
    directory = h.directory(controller, path)
    if directory is None:
        raise KernelError("open", errno.ENOENT, f"hierarchy of cgroup controller {controller}")
    return directory
