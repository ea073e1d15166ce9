"""From rules about devices to what the kernel is told: files of version 1, a BPF program elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shim.cgroups import device_bpf
from shim.cgroups.plan import Write
from shim.errors import InvalidArgument
from shim.model.cgroup import ALL, ANY, DeviceRule

CONTROLLER: Final = "devices"


def plan_v1(rules: Sequence[DeviceRule]) -> list[Write]:
    """Return the writes for version 1; none where everything is allowed, which a new cgroup inherits.

    Raises:
        InvalidArgument: a rule takes some devices back from one before it. Version 1 knows a list of what is
            allowed, and no exceptions from it.
    """
    rules = in_force(rules)
    if everything_allowed(rules):
        return []
    writes: list[Write] = [(CONTROLLER, "devices.deny", ALL)]
    for rule in rules:
        if not rule.allow:
            raise InvalidArgument(f"cgroups of version 1 cannot deny {format_rule(rule)} alone")
        writes.append((CONTROLLER, "devices.allow", format_rule(rule)))
    return writes


def plan_v2(rules: Sequence[DeviceRule]) -> bytes:
    """Return the BPF program for version 2; empty where everything is allowed, as it is without one.

    Raises:
        InvalidArgument: a rule makes no sense.
    """
    rules = in_force(rules)
    return b"" if everything_allowed(rules) else device_bpf.assemble(rules)


def in_force(rules: Sequence[DeviceRule]) -> tuple[DeviceRule, ...]:
    """Return the rules without those that a later one about all devices makes void.

    Where nothing is denied, what is allowed with the same devices adds up, as it does in version 1.
    """
    begin = max((at for at, rule in enumerate(rules) if rule.type == ALL), default=0)
    kept = tuple(rules[begin:])
    if kept and kept[0].type == ALL and not kept[0].allow:
        kept = kept[1:]
    if not all(rule.allow for rule in kept):
        return kept
    sums: dict[tuple[str, int, int], str] = {}
    for rule in kept:
        key = rule.type, rule.major, rule.minor
        before = sums.get(key, "")
        sums[key] = "".join(each for each in "rwm" if each in before + rule.access)
    return tuple(DeviceRule(True, *key, access) for key, access in sums.items())


def everything_allowed(rules: Sequence[DeviceRule]) -> bool:
    """Tell whether rules that are in force leave nothing to deny."""
    return bool(rules) and rules[0].allow and rules[0].type == ALL and all(rule.allow for rule in rules)


def format_rule(rule: DeviceRule) -> str:
    """Return a rule as the files of version 1 have it: ``c 1:3 rwm``."""
    major, minor = ("*" if number == ANY else str(number) for number in (rule.major, rule.minor))
    return f"{rule.type} {major}:{minor} {rule.access}"
