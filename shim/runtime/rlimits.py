"""Limits that every program in a container begins with, whatever the daemon was started with."""

from __future__ import annotations

import resource

_UNLIMITED = resource.RLIM_INFINITY
_MIB = 1024 * 1024


def plan_rlimits(nofile_soft: int, nofile_hard: int) -> tuple[tuple[int, int, int], ...]:
    """Return tuples of (resource number, soft, hard): as systemd gives them to services."""
    return (
        (resource.RLIMIT_NOFILE, nofile_soft, nofile_hard),
        (resource.RLIMIT_CORE, _UNLIMITED, _UNLIMITED),
        (resource.RLIMIT_STACK, 8 * _MIB, _UNLIMITED),
        (resource.RLIMIT_MEMLOCK, 8 * _MIB, 8 * _MIB),
        *(
            (number, _UNLIMITED, _UNLIMITED)
            for number in (
                resource.RLIMIT_AS,
                resource.RLIMIT_CPU,
                resource.RLIMIT_DATA,
                resource.RLIMIT_FSIZE,
                resource.RLIMIT_RSS,
            )
        ),
    )
