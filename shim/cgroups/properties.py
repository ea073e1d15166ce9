"""From what is written into a cgroup's files to the properties of its systemd unit. Pure.

systemd writes the limits that it knows of again whenever it likes (at each daemon-reload, for one): what it
does not know is gone then. So every limit that it has a property for is told to it as well as written. What
it knows nothing about, such as huge pages, it leaves alone. Before version 253 there is no property for
``memory.oom.group`` of a scope, and a daemon-reload sets it to 0.

Source: org.freedesktop.systemd1(5), systemd.resource-control(5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from shim.cgroups.plan import Write

# Name and value with its D-Bus signature.
Property = tuple[str, tuple[str, object]]

INFINITY: Final = 0xFFFFFFFFFFFFFFFF
_SECOND_US: Final = 1_000_000
_OOM_GROUP: Final = "memory.oom.group"
_KNOWS_OOM_GROUPS: Final = 253
_SUFFIXES: Final = {"K": 10, "M": 20, "G": 30, "T": 40}


def plan_scope(
    slice_: str, description: str, pid: int, writes: Sequence[Write], version: int
) -> list[Property]:
    """Return the properties of a new scope.

    Args:
        slice_: unit in which it lies.
        description: for whoever lists units.
        pid: its first process: there is no scope without one.
        writes: limits, of ``plan.plan_v2``.
        version: of systemd.
    """
    limits = plan_limits(writes)
    told = {name for name, _ in limits}
    # What runs below is ours to divide, and none of the defaults that are meant for services holds for it.
    fixed: list[Property] = [
        ("Description", ("s", description)),
        ("Slice", ("s", slice_)),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)),
        ("MemoryAccounting", ("b", True)),
        ("TasksAccounting", ("b", True)),
    ]
    if "TasksMax" not in told:
        fixed.append(("TasksMax", ("t", INFINITY)))
    written = {name: value for _, name, value in writes}
    if version >= _KNOWS_OOM_GROUPS and written.get(_OOM_GROUP) == "1":
        fixed.append(("OOMPolicy", ("s", "kill")))
    return fixed + limits


def plan_limits(writes: Iterable[Write]) -> list[Property]:
    """Return the properties that say the same as some writes; what has none, or says nothing, is left out.

    A file that is written twice counts as it was written last.
    """
    found: dict[str, tuple[str, object]] = {}
    for _, name, value in writes:
        found.update(_PROPERTIES.get(name, _none)(value.strip()))
    return list(found.items())


def _none(value: str) -> list[Property]:
    return []


def _size(property_: str) -> Callable[[str], list[Property]]:
    def of(value: str) -> list[Property]:
        number = parse_size(value)
        return [] if number is None else [(property_, ("t", number))]

    return of


def _cpu_max(value: str) -> list[Property]:
    quota, _, period = value.partition(" ")
    found: list[Property] = []
    period_us = int(period) if period.isdecimal() and int(period) else 100_000
    if period.isdecimal():
        found.append(("CPUQuotaPeriodUSec", ("t", period_us)))
    if quota == "max":
        return [("CPUQuotaPerSecUSec", ("t", INFINITY)), *found]
    if quota.isdecimal():
        return [("CPUQuotaPerSecUSec", ("t", -(-int(quota) * _SECOND_US // period_us))), *found]
    return []


def _io_weight(value: str) -> list[Property]:
    weight = value.removeprefix("default ")
    return [("IOWeight", ("t", int(weight)))] if weight.isdecimal() else []


def _set(property_: str) -> Callable[[str], list[Property]]:
    def of(value: str) -> list[Property]:
        mask = parse_set(value)
        return [] if mask is None else [(property_, ("ay", mask))]

    return of


_PROPERTIES: Final[Mapping[str, Callable[[str], list[Property]]]] = {
    "cpu.weight": _size("CPUWeight"),
    "cpu.max": _cpu_max,
    "cpuset.cpus": _set("AllowedCPUs"),
    "cpuset.mems": _set("AllowedMemoryNodes"),
    "io.weight": _io_weight,
    "memory.min": _size("MemoryMin"),
    "memory.low": _size("MemoryLow"),
    "memory.high": _size("MemoryHigh"),
    "memory.max": _size("MemoryMax"),
    "memory.swap.max": _size("MemorySwapMax"),
    "pids.max": _size("TasksMax"),
}


def parse_size(value: str) -> int | None:
    """Return a number as cgroup files take it: ``max``, or with K, M, G or T behind; None for other text."""
    if value == "max":
        return INFINITY
    digits, shift = value, 0
    if value[-1:].upper() in _SUFFIXES:
        digits, shift = value[:-1], _SUFFIXES[value[-1:].upper()]
    return int(digits) << shift if digits.isdecimal() and digits.isascii() else None


def parse_set(value: str) -> bytes | None:
    """Return a list of numbers, such as ``0-2,7``, as a mask; None if it is none.

    Number N is bit N % 8 of byte N // 8.
    """
    mask = 0
    for part in value.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal()) or not int(first) <= int(last) < 1 << 16:
            return None
        mask |= (1 << (int(last) + 1)) - (1 << int(first))
    return mask.to_bytes(-(-mask.bit_length() // 8), "little")
