"""The numbers of a cgroup, on both versions.

``Reader.usage`` reads what statistics tell, seven to nine files; ``Reader.details`` also what metrics tell.
Pressure is counted in the cgroup2 hierarchy alone, where every container is on version 1 too, for tracking.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from typing import Final

from shim.cgroups import parse
from shim.cgroups.hierarchy import Hierarchy
from shim.cgroups.open_files import OpenFiles
from shim.errors import KernelError
from shim.kernel import filesystems
from shim.kernel.cgroupfs import read_bytes
from shim.model.stats import (
    CgroupDetails,
    CgroupUsage,
    CpuStats,
    DeviceIo,
    HugePages,
    IoStats,
    MemoryStats,
    Pressure,
)

_HUGE_PAGES: Final = "/sys/kernel/mm/hugepages"
_PRESSURE: Final = "/proc/pressure/cpu"
_PROCESSES: Final = "cgroup.procs"
# A threaded cgroup says EOPNOTSUPP: its processes are told by the one above that is not (cgroups(7)).
_NO_PROCESSES: Final = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Reader:
    """Reads the numbers of cgroups. Blocking; for one thread.

    Args:
        hierarchy: where cgroups are.
        files: how they are read.
    """

    def __init__(self, hierarchy: Hierarchy, files: OpenFiles) -> None:
        self._files = files
        self._unified = hierarchy.unified
        self._v1 = bool(hierarchy.v1)
        get = hierarchy.v1.get if hierarchy.v1 else lambda _name: hierarchy.unified
        self._cpu, self._cpuacct, self._memory = get("cpu"), get("cpuacct"), get("memory")
        self._pids, self._blkio, self._huge = get("pids"), get("blkio"), get("hugetlb")
        self._has_pressure = _has_pressure()

    def cpu(self, path: str) -> CpuStats:
        """Return CPU time alone, without pressure; keeps no file open.

        Raises:
            KernelError: the cgroup is gone, or nothing counts CPU time.
        """
        mount, name = self._cpu_file()
        return self._parse_cpu(time.time_ns(), read_bytes(f"{mount}{path}/{name}"))

    def usage(self, path: str) -> CgroupUsage:
        """Return what statistics tell. ``path`` is below the root of each hierarchy.

        Raises:
            KernelError: the cgroup is gone.
        """
        mount, name = self._cpu_file()
        cpu = self._parse_cpu(time.time_ns(), self._files.read(mount, path, name))
        if self._has_pressure:
            cpu = CpuStats(cpu.timestamp_ns, cpu.usage_ns, None, self._pressure(path, "cpu"))
        return CgroupUsage(cpu, self._memory_stats(path), self._io(path))

    def details(self, path: str) -> CgroupDetails:
        """Return what metrics tell. ``path`` is below the root of each hierarchy.

        Raises:
            KernelError: the cgroup is gone.
        """
        usage = self.usage(path)
        return self._details_v1(path, usage) if self._v1 else self._details_v2(path, usage)

    def processes(self, path: str) -> list[int]:
        """Return the pids in a cgroup and those below it; none once it is gone.

        The cgroup2 hierarchy tells them: one of version 1 says the same for a second to who keeps it open.
        """
        directory = self._unified + path
        try:
            data = self._files.read(self._unified, path, _PROCESSES)
            return [*map(int, data.split()), *_pids_below(directory)]
        except OSError as error:
            if error.errno in _NO_PROCESSES:
                return []
            raise

    # Version 1 and 2 in one

    def _cpu_file(self) -> tuple[str, str]:
        """Return (mount, name) of the file that counts CPU time."""
        if not self._v1:
            return self._unified, "cpu.stat"
        if self._cpuacct is None:
            raise KernelError("open", errno.ENOENT, "hierarchy of cgroup controller cpuacct")
        return self._cpuacct, "cpuacct.usage"

    def _parse_cpu(self, now_ns: int, data: bytes) -> CpuStats:
        return CpuStats(now_ns, int(data) if self._v1 else parse.flat(data)[b"usage_usec"] * 1000)

    def _pressure(self, path: str, resource: str) -> Pressure | None:
        data = self._optional(self._unified, path, f"{resource}.pressure")
        return parse.pressure(data) if data else None

    def _io(self, path: str) -> IoStats | None:
        pressure = self._pressure(path, "io") if self._has_pressure else None
        return IoStats(time.time_ns(), pressure) if pressure is not None else None

    def _memory_stats(self, path: str) -> MemoryStats | None:
        if self._memory is None:
            return None
        now = time.time_ns()
        data = self._optional(self._memory, path, "memory.stat")
        if data is None:
            return None
        stat = parse.flat(data)
        pressure = self._pressure(path, "memory") if self._has_pressure else None
        if self._v1:
            usage = int(self._files.read(self._memory, path, "memory.usage_in_bytes"))
            limit = parse.limit(self._files.read(self._memory, path, "memory.limit_in_bytes"))
            return memory_v1(now, usage, limit, stat, pressure)
        usage = int(self._files.read(self._memory, path, "memory.current"))
        limit = parse.limit(self._files.read(self._memory, path, "memory.max"))
        swap = self._optional(self._memory, path, "memory.swap.current")  # none on a kernel without swap
        swap_max = self._optional(self._memory, path, "memory.swap.max") if swap is not None else None
        return memory_v2(now, usage, limit, int(swap or 0), swap_max, stat, pressure)

    def _details_v1(self, path: str, usage: CgroupUsage) -> CgroupDetails:
        cpu = self._flat(self._cpu, path, "cpu.stat")
        times = self._flat(self._cpuacct, path, "cpuacct.stat")
        kernel = self._number(self._memory, path, "memory.kmem.usage_in_bytes")
        memory = usage.memory
        if memory is not None and kernel:
            memory = dataclasses.replace(memory, kernel_bytes=kernel)
            usage = CgroupUsage(usage.cpu, memory, usage.io)
        return CgroupDetails(
            usage=usage,
            user_ns=times.get(b"user", 0) * _TICK_NS,
            system_ns=times.get(b"system", 0) * _TICK_NS,
            periods=cpu.get(b"nr_periods", 0),
            throttled_periods=cpu.get(b"nr_throttled", 0),
            throttled_ns=cpu.get(b"throttled_time", 0),
            memory_max_bytes=self._number(self._memory, path, "memory.max_usage_in_bytes"),
            limit_hits=self._number(self._memory, path, "memory.failcnt") or 0,
            oom_kills=self._flat(self._memory, path, "memory.oom_control").get(b"oom_kill", 0),
            tasks=self._number(self._pids, path, "pids.current") or 0,
            tasks_max=self._number(self._pids, path, "pids.max") or 0,
            devices=_named(
                parse.blkio(
                    self._file(self._blkio, path, "blkio.throttle.io_service_bytes_recursive"),
                    self._file(self._blkio, path, "blkio.throttle.io_serviced_recursive"),
                )
            ),
            huge_pages=self._huge_pages(path),
        )

    def _details_v2(self, path: str, usage: CgroupUsage) -> CgroupDetails:
        cpu = self._flat(self._unified, path, "cpu.stat")
        events = self._flat(self._unified, path, "memory.events")
        return CgroupDetails(
            usage=usage,
            user_ns=cpu.get(b"user_usec", 0) * 1000,
            system_ns=cpu.get(b"system_usec", 0) * 1000,
            periods=cpu.get(b"nr_periods", 0),
            throttled_periods=cpu.get(b"nr_throttled", 0),
            throttled_ns=cpu.get(b"throttled_usec", 0) * 1000,
            memory_max_bytes=self._number(self._unified, path, "memory.peak"),
            limit_hits=events.get(b"max", 0),
            oom_kills=events.get(b"oom_kill", 0),
            tasks=self._number(self._unified, path, "pids.current") or 0,
            tasks_max=self._number(self._unified, path, "pids.max") or 0,
            devices=_named(parse.io_stat(self._file(self._unified, path, "io.stat"))),
            huge_pages=self._huge_pages(path),
        )

    def _huge_pages(self, path: str) -> tuple[HugePages, ...]:
        """Return their use, for sizes of which this node has pages at all."""
        found = []
        for size in _huge_page_sizes() if self._huge is not None else ():
            name = "usage_in_bytes" if self._v1 else "current"
            used = self._number(self._huge, path, f"hugetlb.{size}.{name}")
            most = self._number(self._huge, path, f"hugetlb.{size}.max_usage_in_bytes") if self._v1 else None
            if used is not None:
                found.append(HugePages(size, used, most))
        return tuple(found)

    # Files that kernels, or cgroups without a controller, may lack

    def _optional(self, mount: str, path: str, name: str) -> bytes | None:
        try:
            return self._files.read(mount, path, name)
        except KernelError:
            return None

    def _file(self, mount: str | None, path: str, name: str) -> bytes:
        return (self._optional(mount, path, name) or b"") if mount is not None else b""

    def _flat(self, mount: str | None, path: str, name: str) -> dict[bytes, int]:
        return parse.flat(self._file(mount, path, name))

    def _number(self, mount: str | None, path: str, name: str) -> int | None:
        data = self._file(mount, path, name)
        return parse.limit(data) if data else None


def memory_v1(
    now_ns: int, usage: int, limit: int, stat: dict[bytes, int], pressure: Pressure | None = None
) -> MemoryStats:
    """Return the numbers of version 1; those that begin with ``total_`` count the cgroups below too. Pure."""
    get = stat.get
    inactive = get(b"total_inactive_file", 0)
    both = get(b"hierarchical_memsw_limit", parse.NO_LIMIT)
    swap_limit = max(both - get(b"hierarchical_memory_limit", 0), 0)
    limited = both < parse.NO_LIMIT
    return MemoryStats(
        now_ns,
        usage,
        max(usage - inactive, 0),
        get(b"total_rss", 0),
        limit,
        get(b"total_pgfault", 0),
        get(b"total_pgmajfault", 0),
        get(b"total_swap", 0),
        swap_limit if limited else 0,
        not limited or swap_limit > 0,
        get(b"total_cache", 0),
        get(b"total_mapped_file", 0),
        get(b"total_active_file", 0),
        inactive,
        0,
        pressure,
    )


def memory_v2(
    now_ns: int,
    usage: int,
    limit: int,
    swap: int,
    swap_max: bytes | None,
    stat: dict[bytes, int],
    pressure: Pressure | None = None,
) -> MemoryStats:
    """Return the numbers of version 2. Pure."""
    get = stat.get
    inactive = get(b"inactive_file", 0)
    return MemoryStats(
        now_ns,
        usage,
        max(usage - inactive, 0),
        get(b"anon", 0),
        limit,
        get(b"pgfault", 0),
        get(b"pgmajfault", 0),
        swap,
        parse.limit(swap_max) if swap_max else 0,
        swap_max is None or swap_max.strip() != b"0",
        get(b"file", 0),
        get(b"file_mapped", 0),
        get(b"active_file", 0),
        inactive,
        get(b"kernel", 0),
        pressure,
    )


def _named(devices: tuple[DeviceIo, ...]) -> tuple[DeviceIo, ...]:
    return tuple(
        dataclasses.replace(each, device=filesystems.block_device(each.major, each.minor)) for each in devices
    )


def _pids_below(directory: str) -> list[int]:
    """Return the pids in all cgroups below one."""
    if os.stat(directory).st_nlink <= 2:  # a directory of cgroups has a link from each one below it
        return []
    with os.scandir(directory) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return [pid for each in below for pid in _pids(each)]


def _pids(directory: str) -> list[int]:
    try:
        found = [int(pid) for pid in read_bytes(f"{directory}/{_PROCESSES}").split()]
        return found + _pids_below(directory)
    except OSError as error:
        if error.errno in _NO_PROCESSES:
            return []
        raise


def _has_pressure() -> bool:
    try:
        return bool(read_bytes(_PRESSURE))
    except KernelError:  # a kernel without, or with psi=0
        return False


def _huge_page_sizes() -> list[str]:
    try:
        names = [
            name for name in os.listdir(_HUGE_PAGES) if int(read_bytes(f"{_HUGE_PAGES}/{name}/nr_hugepages"))
        ]
    except OSError:  # a kernel without huge pages
        return []
    return sorted(parse.page_size(int(name.removeprefix("hugepages-").removesuffix("kB"))) for name in names)
