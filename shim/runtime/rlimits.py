"""Limits that every program in a container begins with, whatever the daemon was started with."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping

_UNLIMITED = resource.RLIM_INFINITY
_MIB = 1024 * 1024
_LOCKS = 10  # RLIMIT_LOCKS of Linux, which the module lacks
_FREE = (
    _LOCKS,
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_RSS,
    resource.RLIMIT_RTTIME,
)


def plan_rlimits(nofile_soft: int, nofile_hard: int) -> tuple[tuple[int, int, int], ...]:
    """Return tuples of (resource number, soft, hard): as systemd gives them to services. Pure.

    The number of processes is the cgroup's to limit: this one counts a user's over all containers.
    """
    wanted = (
        (resource.RLIMIT_NOFILE, nofile_soft, nofile_hard),
        (resource.RLIMIT_CORE, _UNLIMITED, _UNLIMITED),
        (resource.RLIMIT_STACK, 8 * _MIB, _UNLIMITED),
        (resource.RLIMIT_MEMLOCK, 8 * _MIB, 8 * _MIB),
        (resource.RLIMIT_MSGQUEUE, 819_200, 819_200),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
    )
    return wanted + tuple((number, _UNLIMITED, _UNLIMITED) for number in _FREE)


def within(
    limits: Iterable[tuple[int, int, int]], ceilings: Mapping[int, int]
) -> tuple[tuple[int, int, int], ...]:
    """Return limits lowered to what this process may give: without SYS_RESOURCE its own hard limits. Pure."""
    return tuple(
        (number, _lower(soft, ceilings[number]), _lower(hard, ceilings[number]))
        for number, soft, hard in limits
    )


def ceilings() -> dict[int, int]:
    """Return the hard limits of this process by resource number."""
    return {number: resource.getrlimit(number)[1] for number, _, _ in plan_rlimits(0, 0)}


def _lower(limit: int, ceiling: int) -> int:
    if _UNLIMITED in (limit, ceiling):
        return ceiling if limit == _UNLIMITED else limit
    return min(limit, ceiling)
