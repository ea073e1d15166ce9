"""Limits: CPU, memory, processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    """Limit for one page size; ``page_size`` as in ``2MB`` or ``1GB``, ``limit`` in bytes."""

    page_size: str
    limit: int


@dataclass(frozen=True, slots=True)
class Resources:
    """LinuxContainerResources.

    0 (and empty text) means not given, as in the CRI; ``cpu_quota_us`` -1 means no quota;
    ``memory_limit_bytes`` and ``memory_swap_limit_bytes`` -1 mean unlimited. Swap counts memory plus swap.
    ``unified`` maps cgroup v2 file names to what is written there.
    """

    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpu_shares: int = 0
    memory_limit_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)
    memory_swap_limit_bytes: int = 0
