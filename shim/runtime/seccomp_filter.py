"""From a seccomp profile to the BPF program that an init child loads.

Compiling takes milliseconds, so programs are kept by what they are made from: the capabilities for our own
profile, the file's content for the administrator's.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shim.errors import InvalidArgument
from shim.kernel import capabilities, seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime import seccomp_default as profile

_EQUAL: Final = seccomp.OPERATORS["SCMP_CMP_EQ"]
_NOT_EQUAL: Final = seccomp.OPERATORS["SCMP_CMP_NE"]
_MASKED: Final = seccomp.OPERATORS["SCMP_CMP_MASKED_EQ"]
_MAX_ERRNO: Final = 4095

_ACTIONS: Final = {
    "SCMP_ACT_KILL": seccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": seccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.ACT_TRAP,
    "SCMP_ACT_ERRNO": seccomp.ACT_ERRNO,
    "SCMP_ACT_TRACE": seccomp.ACT_TRACE,
    "SCMP_ACT_LOG": seccomp.ACT_LOG,
    "SCMP_ACT_ALLOW": seccomp.ACT_ALLOW,
}
_WITH_NUMBER: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_ARCHITECTURES: Final = {
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_ARM": "arm",
    "SCMP_ARCH_AARCH64": "aarch64",
}

# All that the loop of a pod's init ever asks of the kernel, with what the interpreter does beside it.
_REAPER: Final = """
    brk execve execveat exit_group futex madvise mmap mprotect mremap munmap pause ppoll restart_syscall
    rt_sigreturn
"""


@functools.lru_cache(maxsize=64)
def runtime_default(mask: int, machine: str = os.uname().machine) -> bytes:
    """Return the program of the RuntimeDefault profile for a process with these capabilities.

    Args:
        mask: bit N is capability N.
        machine: as uname(2) names it.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    default = seccomp.ACT_ERRNO | profile.DEFAULT_ERRNO
    return seccomp.compile_rules(default, list(plan_default(mask, machine)), _extra(machine))


@functools.cache
def reaper() -> bytes:
    """Return the program of a pod's init.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    rules = [Rule(name, seccomp.ACT_ALLOW) for name in _REAPER.split()]
    return seccomp.compile_rules(seccomp.ACT_ERRNO | profile.DEFAULT_ERRNO, rules)


@functools.lru_cache(maxsize=64)
def from_json(text: bytes, mask: int, machine: str = os.uname().machine) -> bytes:
    """Return the program of a profile file, as docker, containerd and the OCI runtime specification have it.

    Args:
        text: the file.
        mask: capabilities of the process, for rules that include or exclude some.
        machine: as uname(2) names it.

    Raises:
        InvalidArgument: it is no such profile. Unavailable: libseccomp is not installed.
    """
    try:
        value = json.loads(text)
        default = _action(value["defaultAction"], value.get("defaultErrnoRet"))
        rules = [rule for entry in value.get("syscalls") or () for rule in _rules(entry, mask, machine)]
        architectures = tuple(_architectures(value, machine))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"a seccomp profile is not as it must be: {error!r}") from None
    return seccomp.compile_rules(default, rules, architectures)


def plan_default(mask: int, machine: str) -> Iterator[Rule]:
    """Yield the rules of the RuntimeDefault profile. Pure."""
    allow = seccomp.ACT_ALLOW
    has = {name for number, name in enumerate(capabilities.NAMES) if mask >> number & 1}
    names = dict.fromkeys((*profile.ALLOWED, *profile.TRACING, *profile.ON_MACHINE.get(machine, ())))
    for capability, theirs in profile.WITH_CAPABILITY.items():
        if capability in has:
            names.update(dict.fromkeys(theirs))
    yield from (Rule(name, allow) for name in names)
    for value in profile.PERSONALITIES:
        yield Rule("personality", allow, (Comparison(0, _EQUAL, value),))
    yield Rule("socket", allow, (Comparison(0, _NOT_EQUAL, profile.AF_VSOCK),))
    if "SYS_ADMIN" not in has:
        yield Rule("clone", allow, (Comparison(0, _MASKED, profile.NAMESPACE_FLAGS, 0),))
        yield Rule("clone3", seccomp.ACT_ERRNO | profile.CLONE3_ERRNO)


def _extra(machine: str) -> tuple[str, ...]:
    return profile.ARCHITECTURES.get(machine, ())


def _rules(entry: Mapping[str, Any], mask: int, machine: str) -> Iterator[Rule]:
    if not _applies(entry, mask, machine):
        return
    action = _action(entry["action"], entry.get("errnoRet"))
    names = entry.get("names") or (entry["name"],)
    comparisons = [
        Comparison(int(a["index"]), seccomp.OPERATORS[a["op"]], int(a["value"]), int(a.get("valueTwo") or 0))
        for a in entry.get("args") or ()
    ]
    indexes = [comparison.argument for comparison in comparisons]
    for name in names:
        if len(set(indexes)) == len(indexes):
            yield Rule(name, action, tuple(comparisons))
        else:  # libseccomp takes one condition on an argument; several mean any of them, as in runc
            yield from (Rule(name, action, (each,)) for each in comparisons)


def _applies(entry: Mapping[str, Any], mask: int, machine: str) -> bool:
    """Tell whether a rule of docker's own form is for this process."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    theirs = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}.get(machine, (machine,))
    if any(not mask >> capabilities.parse(name) & 1 for name in includes.get("caps") or ()):
        return False
    if any(mask >> capabilities.parse(name) & 1 for name in excludes.get("caps") or ()):
        return False
    if includes.get("arches") and not set(includes["arches"]) & set(theirs):
        return False
    return not set(excludes.get("arches") or ()) & set(theirs)


def _action(name: str, number: int | None) -> int:
    try:
        action = _ACTIONS[name]
    except KeyError:
        raise InvalidArgument(f"a seccomp profile has the action {name!r}, which cannot be done") from None
    if name not in _WITH_NUMBER:
        return action
    value = profile.DEFAULT_ERRNO if number is None else int(number)
    if not 0 <= value <= _MAX_ERRNO:
        raise InvalidArgument(f"a seccomp profile has the error number {value}; {_MAX_ERRNO} is the highest")
    return action | value


def _architectures(value: Mapping[str, Any], machine: str) -> Iterator[str]:
    """Yield libseccomp's names of the architectures besides the machine's own."""
    names = list(value.get("architectures") or ())
    for entry in value.get("archMap") or ():
        if _ARCHITECTURES.get(entry["architecture"]) == machine:
            names += entry.get("subArchitectures") or ()
    for name in dict.fromkeys(names):
        known = _ARCHITECTURES.get(name)
        if known and known != machine:
            yield known
