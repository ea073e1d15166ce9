"""Checks of single values. Each raises InvalidArgument naming the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from shim.errors import InvalidArgument
from shim.model.resources import Resources

MAX_NAME: Final = 253  # a DNS subdomain, what Kubernetes allows for the name of an object
MAX_PATH: Final = 4096  # PATH_MAX
MAX_LABELS_BYTES: Final = 64 * 1024
MAX_ANNOTATIONS_BYTES: Final = 320 * 1024  # Kubernetes allows 256 KiB for a pod, and the kubelet adds its own
MAX_ID: Final = 2**32 - 2  # (uid_t) -1 means "leave as it is" to the kernel
MAX_GROUPS: Final = 65536  # NGROUPS_MAX of Linux
OOM_SCORE_ADJ: Final = range(-1000, 1001)

CPU_PERIOD_US: Final = range(1_000, 1_000_001)  # kernel/sched/core.c: 1 ms to 1 s
CPU_QUOTA_US: Final = range(1_000, 2**44)

_PAGE_SIZE: Final = re.compile(r"[1-9][0-9]{0,5}[KMG]B")
_CPUSET: Final = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


def name(field: str, value: str, *, required: bool = True, longest: int = MAX_NAME) -> None:
    """Check a name: of bounded length, one line, not empty where ``required``."""
    if required and not value:
        raise InvalidArgument(f"{field} is empty")
    if len(value) > longest:
        raise InvalidArgument(f"{field} has {len(value)} characters; at most {longest} are accepted")
    if not value.isprintable():
        raise InvalidArgument(f"{field} {value!r} contains control characters")


def text(field: str, value: str) -> None:
    """Check a text that goes to a C interface: no NUL."""
    if "\0" in value:
        raise InvalidArgument(f"{field} contains a NUL byte")


def path(field: str, value: str, *, absolute: bool) -> None:
    """Check a path: no NUL, no ``..``, absolute or relative as told. Empty is accepted."""
    if not value:
        return
    text(field, value)
    if len(value) > MAX_PATH:
        raise InvalidArgument(f"{field} has {len(value)} characters; a path has at most {MAX_PATH}")
    if value.startswith("/") is not absolute:
        raise InvalidArgument(f"{field} {value!r} is not {'an absolute' if absolute else 'a relative'} path")
    if ".." in value.split("/"):
        raise InvalidArgument(f"{field} {value!r} contains '..'")


def one_line(field: str, values: Iterable[str]) -> None:
    """Check values that are written into lines of a configuration file."""
    for value in values:
        if not value or not value.isprintable():
            raise InvalidArgument(f"{field} {value!r} is empty or contains control characters")
        if len(value) > MAX_NAME:
            raise InvalidArgument(f"{field} {value[:32]!r}... has more than {MAX_NAME} characters")


def map_size(field: str, values: Mapping[str, str], most_bytes: int) -> None:
    """Check that a map is small enough to be told in every list."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in values.items())
    if size > most_bytes:
        raise InvalidArgument(f"{field} take {size} bytes; at most {most_bytes} are accepted")


def ids(field: str, values: Iterable[int | None]) -> None:
    """Check user or group ids; None is one that is not given."""
    for value in values:
        if value is not None and not 0 <= value <= MAX_ID:
            raise InvalidArgument(f"{field}: {value} is not a user or group id")


def identity(user: int | None, group: int | None, groups: Sequence[int], *, named: bool = False) -> None:
    """Check the numbers of a security context.

    Args:
        user: run_as_user, None if not given.
        group: run_as_group, None if not given.
        groups: supplemental_groups.
        named: the user is given by name.
    """
    ids("run_as_user", (user,))
    ids("run_as_group", (group,))
    ids("supplemental_groups", groups)
    if len(groups) > MAX_GROUPS:
        raise InvalidArgument(f"supplemental_groups has {len(groups)} groups; at most {MAX_GROUPS}")
    if group is not None and user is None and not named:
        raise InvalidArgument("run_as_group is given without run_as_user or run_as_username")


def at_least(field: str, value: int, least: int) -> None:
    """Check a number."""
    if value < least:
        raise InvalidArgument(f"{field} is {value}; it must be {least} or more")


def _within(field: str, value: int, range_us: range, other: tuple[int, ...]) -> None:
    """Check a time in microseconds that the kernel limits; some other values have meanings of their own."""
    if value not in range_us and value not in other:
        least, most = range_us.start, range_us.stop - 1
        raise InvalidArgument(f"{field} is {value}; it must be from {least} to {most} microseconds")


def resources(field: str, value: Resources, *, whole: bool = True) -> None:
    """Check limits: nothing negative but the values that mean unlimited.

    Args:
        field: for errors.
        value: the limits.
        whole: 0 means that there is no limit, not that one stays as it is.
    """
    _within(f"{field}.cpu_period", value.cpu_period_us, CPU_PERIOD_US, (0,))
    _within(f"{field}.cpu_quota", value.cpu_quota_us, CPU_QUOTA_US, (0, -1))
    at_least(f"{field}.cpu_shares", value.cpu_shares, 0)
    at_least(f"{field}.memory_limit_in_bytes", value.memory_limit_bytes, -1)
    at_least(f"{field}.memory_swap_limit_in_bytes", value.memory_swap_limit_bytes, -1)
    memory, swap = value.memory_limit_bytes, value.memory_swap_limit_bytes
    if swap > 0 and (memory < 0 or (whole and not memory)):
        raise InvalidArgument(f"{field}.memory_swap_limit_in_bytes is {swap}, but memory has no limit")
    if memory > 0 and 0 < swap < memory:
        raise InvalidArgument(
            f"{field}.memory_swap_limit_in_bytes is {swap}: less than the memory limit, {memory}"
        )
    if value.oom_score_adj not in OOM_SCORE_ADJ:
        raise InvalidArgument(f"{field}.oom_score_adj is {value.oom_score_adj}; not from -1000 to 1000")
    for key, cpuset in (("cpuset_cpus", value.cpuset_cpus), ("cpuset_mems", value.cpuset_mems)):
        if cpuset and not _CPUSET.fullmatch(cpuset):
            raise InvalidArgument(f"{field}.{key} {cpuset[:64]!r} is not a list of numbers such as 0-2,7")
    for page in value.hugepage_limits:
        if not _PAGE_SIZE.fullmatch(page.page_size):
            raise InvalidArgument(f"{field}.hugepage_limits: {page.page_size[:32]!r} is no size such as 2MB")
        at_least(f"{field}.hugepage_limits of {page.page_size!r}", page.limit, 0)
    sizes = [page.page_size for page in value.hugepage_limits]
    if len(set(sizes)) < len(sizes):
        raise InvalidArgument(f"{field}.hugepage_limits gives a size twice: {', '.join(sizes)}")
    for key, text_ in value.unified.items():
        text(f"{field}.unified {key!r}", text_)
        if "/" in key or key in ("", ".", "..") or "\0" in key or "." not in key:
            raise InvalidArgument(f"{field}.unified {key!r} is not the name of a cgroup file")
