"""From resources to what is written into which file of a cgroup. Pure.

A write is (controller, file, value), in the order in which the kernel takes them. 0 and empty text in the
resources mean that nothing was said, and nothing is written.
"""

from __future__ import annotations

from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.resources import HugepageLimit, Resources

Write = tuple[str, str, str]

_MIN_SHARES: Final = 2
_MAX_SHARES: Final = 262_144
_DEFAULT_PERIOD_US: Final = 100_000
_UNLIMITED: Final = -1


def cpu_weight(shares: int) -> int:
    """Return the cgroup v2 weight (1 to 10,000) for v1 shares (2 to 262,144), as the OCI runtimes map them.

    Linear: 2 becomes 1, 1,024 becomes 39, 262,144 becomes 10,000 (KEP-2254).
    """
    shares = _within(shares)
    return 1 + ((shares - _MIN_SHARES) * 9_999) // (_MAX_SHARES - _MIN_SHARES)


def plan_v1(resources: Resources, memory_now_bytes: int | None = None) -> list[Write]:
    """Return the writes for version 1.

    Args:
        resources: what was asked.
        memory_now_bytes: the memory limit in force, for an update: memory and memory plus swap must never
            cross, so that growing writes the larger one first. None for a new cgroup, which has no limit.

    Raises:
        FailedPrecondition: files of version 2 are asked for.
    """
    if resources.unified:
        raise FailedPrecondition(
            f"unified {', '.join(sorted(resources.unified))}: this node has cgroups of version 1"
        )
    writes: list[Write] = []
    if resources.cpu_shares:
        writes.append(("cpu", "cpu.shares", str(_within(resources.cpu_shares))))
    if resources.cpu_period_us:
        writes.append(("cpu", "cpu.cfs_period_us", str(resources.cpu_period_us)))
    if resources.cpu_quota_us:
        writes.append(("cpu", "cpu.cfs_quota_us", str(max(resources.cpu_quota_us, _UNLIMITED))))
    writes += _cpuset(resources)
    writes += _memory_v1(resources, memory_now_bytes)
    for huge in resources.hugepage_limits:
        writes += _huge(huge, "limit_in_bytes")
    return writes


def plan_v2(resources: Resources) -> list[Write]:
    """Return the writes for version 2; ``unified`` comes last, so that it has the last word.

    Raises:
        InvalidArgument: swap is limited below memory, or a name in ``unified`` is no file of a cgroup.
    """
    writes: list[Write] = []
    if resources.cpu_shares:
        writes.append(("cpu", "cpu.weight", str(cpu_weight(resources.cpu_shares))))
    if resources.cpu_quota_us or resources.cpu_period_us:
        quota = _max(resources.cpu_quota_us) if resources.cpu_quota_us else "max"
        writes.append(("cpu", "cpu.max", f"{quota} {resources.cpu_period_us or _DEFAULT_PERIOD_US}"))
    writes += _cpuset(resources)
    writes += _memory_v2(resources)
    for huge in resources.hugepage_limits:
        writes += _huge(huge, "max")
    for name, value in sorted(resources.unified.items()):
        if "/" in name or "." not in name or name.startswith(("cgroup.", ".")):
            raise InvalidArgument(f"unified resource {name!r} is not a controller's file")
        writes.append((name.partition(".")[0], name, value))
    return writes


def _within(shares: int) -> int:
    """Return shares as the kernel has them: it lowers what is too much, but loses the highest bits first."""
    return min(max(shares, _MIN_SHARES), _MAX_SHARES)


def _huge(asked: HugepageLimit, suffix: str) -> list[Write]:
    """Limit pages in use, and pages that are set aside: what is mapped but not touched yet."""
    names = (f"hugetlb.{asked.page_size}.{suffix}", f"hugetlb.{asked.page_size}.rsvd.{suffix}")
    return [("hugetlb", name, str(asked.limit)) for name in names]


def _swap(resources: Resources) -> int:
    """Return the limit of memory plus swap: no swap where only memory is limited, as containerd has it."""
    return resources.memory_swap_limit_bytes or resources.memory_limit_bytes


def _cpuset(resources: Resources) -> list[Write]:
    pairs = (("cpuset.cpus", resources.cpuset_cpus), ("cpuset.mems", resources.cpuset_mems))
    return [("cpuset", name, value) for name, value in pairs if value]


def _memory_v1(resources: Resources, now: int | None) -> list[Write]:
    memory, both = resources.memory_limit_bytes, _swap(resources)
    limit = [("memory", "memory.limit_in_bytes", str(max(memory, _UNLIMITED)))] if memory else []
    swap = [("memory", "memory.memsw.limit_in_bytes", str(max(both, _UNLIMITED)))] if both else []
    growing = now is not None and (both < 0 or both > now)
    return swap + limit if growing else limit + swap


def _memory_v2(resources: Resources) -> list[Write]:
    memory, both = resources.memory_limit_bytes, _swap(resources)
    writes: list[Write] = []
    if both:
        if both > 0 and memory <= 0:
            raise InvalidArgument("a limit of memory plus swap needs a limit of memory")
        if 0 < both < memory:
            raise InvalidArgument(f"memory plus swap ({both} bytes) is limited below memory ({memory} bytes)")
        writes.append(("memory", "memory.swap.max", "max" if both < 0 else str(both - memory)))
    if memory:
        writes.append(("memory", "memory.max", _max(memory)))
    return writes


def _max(value: int) -> str:
    return "max" if value < 0 else str(value)
