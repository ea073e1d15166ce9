"""A seccomp profile of the administrator: from the JSON of the OCI runtime specification to rules. Pure.

What docker adds to that form is understood too: ``includes`` and ``excludes`` of capabilities, architectures
and kernels, and ``archMap``. Source: runtime-spec, config-linux.md, "Seccomp"; docker, profiles/seccomp.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import InvalidArgument, Unimplemented
from shim.kernel import capabilities, seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime import seccomp_default

_DEFAULT_ERRNO: Final = errno.EPERM
_MAX_ERRNO: Final = 4095
_MAX_TRACE: Final = 0xFFFF
_MAX_ARGUMENT: Final = 5
_MAX_VALUE: Final = 2**64 - 1

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
_NOTIFY: Final = "SCMP_ACT_NOTIFY"
_HIGHEST_NUMBER: Final = {"SCMP_ACT_ERRNO": _MAX_ERRNO, "SCMP_ACT_TRACE": _MAX_TRACE}

# Which of them libseccomp is told of follows from what the machine runs.
_ARCHITECTURES: Final = {
    f"SCMP_ARCH_{name.upper()}": name
    for name in (
        *("x86", "x86_64", "x32", "arm", "aarch64", "mips", "mips64", "mips64n32", "mipsel", "mipsel64"),
        *("mipsel64n32", "ppc", "ppc64", "ppc64le", "s390", "s390x", "parisc", "parisc64", "riscv64"),
        *("loongarch64", "m68k", "sh", "sheb"),
    )
}
# The machine of uname(2) to the names that docker's conditions have for it.
_CONDITIONS: Final = {
    "x86_64": ("amd64", "x86_64"),
    "aarch64": ("arm64", "aarch64"),
    "loongarch64": ("loong64", "loongarch64"),
}

# For a process about to execve: TSYNC has no other threads to reach, the last one is for agents.
_FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": seccomp.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0,
}
DEFAULT_FLAGS: Final = seccomp.FLAG_SPEC_ALLOW  # where a profile says nothing of flags, as runc has it

_KERNEL: Final = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Process:
    """What the conditions of rules look at.

    Attributes:
        mask: capabilities of the process; bit N is capability N.
        machine, release: as uname(2) has them.
    """

    mask: int
    machine: str
    release: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile for one process.

    Attributes:
        default_action: for every call without a rule, as the kernel has it.
        architectures: libseccomp's names besides the machine's own.
        flags: of seccomp(2).
    """

    default_action: int
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...] = ()
    flags: int = DEFAULT_FLAGS


def parse(text: bytes, process: Process) -> Profile:
    """Return the profile in ``text`` as it is for a process.

    Raises:
        InvalidArgument: it is no such profile; says what is wrong. Unimplemented: it needs an agent.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"it is no JSON: {error}") from None
    value = _object(value, "a profile")
    if value.get("listenerPath"):
        raise Unimplemented("a seccomp profile has a listenerPath: no agent is ever notified")
    default = _action(value.get("defaultAction"), value.get("defaultErrnoRet"), "defaultAction")
    rules = tuple(
        rule
        for entry in _list(value, "syscalls")
        for rule in _rules(_object(entry, "an entry of syscalls"), process)
    )
    return Profile(default, rules, tuple(_architectures(value, process.machine)), _flags(value))


def _rules(entry: Mapping[str, Any], process: Process) -> Iterator[Rule]:
    names = _texts(entry, "names") or [_text(entry, "name")]
    if not all(names):
        raise _wrong("an entry of syscalls names none")
    action = _action(entry.get("action"), entry.get("errnoRet"), f"the action on {names[0]}")
    comparisons = [_comparison(each, names[0]) for each in _list(entry, "args")]
    if not _applies(entry, process):
        return
    indexes = [comparison.argument for comparison in comparisons]
    for name in names:
        if len(set(indexes)) == len(indexes):
            yield Rule(name, action, tuple(comparisons))
        else:  # libseccomp takes one condition on an argument; several mean any of them, as in runc
            yield from (Rule(name, action, (each,)) for each in comparisons)


def _comparison(value: Any, name: str) -> Comparison:
    what = f"an argument of {name}"
    value = _object(value, what)
    operator = seccomp.OPERATORS.get(_text(value, "op"))
    if operator is None:
        raise _wrong(f"{what} has the operator {_text(value, 'op')!r}, which is none")
    index = _number(value.get("index"), _MAX_ARGUMENT, f"the index of {what}")
    first = _number(value.get("value", 0), _MAX_VALUE, f"the value of {what}")
    second = _number(value.get("valueTwo") or 0, _MAX_VALUE, f"the valueTwo of {what}")
    # A profile has mask and value, libseccomp takes them in that order.
    return Comparison(index, operator, first, second)


def _applies(entry: Mapping[str, Any], process: Process) -> bool:
    """Tell whether a rule of docker's own form is for this process."""
    includes = _object(entry.get("includes") or {}, "includes")
    excludes = _object(entry.get("excludes") or {}, "excludes")
    theirs = {process.machine, *_CONDITIONS.get(process.machine, ())}
    wanted = _texts(includes, "arches")
    return (
        all(_holds(process.mask, name) for name in _texts(includes, "caps"))
        and not any(_holds(process.mask, name) for name in _texts(excludes, "caps"))
        and (not wanted or bool(theirs & set(wanted)))
        and not theirs & set(_texts(excludes, "arches"))
        and (not includes.get("minKernel") or _is_since(includes["minKernel"], process.release))
        and not (excludes.get("minKernel") and _is_since(excludes["minKernel"], process.release))
    )


def _holds(mask: int, name: str) -> bool:
    """Tell whether a process has a capability; one that nobody knows it has not."""
    try:
        return bool(mask >> capabilities.parse(name) & 1)
    except InvalidArgument:
        return False


def _is_since(least: Any, release: str) -> bool:
    wanted = _KERNEL.fullmatch(least) if isinstance(least, str) else None
    if wanted is None:
        raise _wrong(f"minKernel is {least!r}, which is no version such as 4.8")
    is_ = _KERNEL.match(release)
    return is_ is not None and tuple(map(int, is_.groups())) >= tuple(map(int, wanted.groups()))


def _action(name: Any, number: Any, what: str) -> int:
    if name == _NOTIFY:
        raise Unimplemented(f"a seccomp profile has {_NOTIFY} as {what}: no agent is ever notified")
    action = _ACTIONS.get(name) if isinstance(name, str) else None
    if action is None:
        raise _wrong(f"{what} is {name!r}, which is no action")
    highest = _HIGHEST_NUMBER.get(name)
    if highest is None:
        if number is not None:
            raise _wrong(f"{what} is {name}, which takes no error number")
        return action
    return action | (_DEFAULT_ERRNO if number is None else _number(number, highest, f"the number of {what}"))


def _architectures(value: Mapping[str, Any], machine: str) -> Iterator[str]:
    """Yield libseccomp's names of what the machine runs besides its own programs."""
    names = _texts(value, "architectures")
    for each in _list(value, "archMap"):
        entry = _object(each, "an entry of archMap")
        if _ARCHITECTURES.get(_text(entry, "architecture")) == machine:
            names += _texts(entry, "subArchitectures")
    for name in dict.fromkeys(names):
        if name not in _ARCHITECTURES:
            raise _wrong(f"it has the architecture {name!r}, which is none")
        if _ARCHITECTURES[name] in seccomp_default.ARCHITECTURES.get(machine, ()):
            yield _ARCHITECTURES[name]


def _flags(value: Mapping[str, Any]) -> int:
    if value.get("flags") is None:
        return DEFAULT_FLAGS
    flags = 0
    for name in _texts(value, "flags"):
        if name not in _FLAGS:
            raise _wrong(f"it has the flag {name!r}, which is none")
        flags |= _FLAGS[name]
    return flags


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} is not an object")
    return value


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if found is not None and not isinstance(found, list):
        raise _wrong(f"{key} is not a list")
    return list(found or ())


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key) or ""
    if not isinstance(found, str):
        raise _wrong(f"{key} is not a text")
    return found


def _texts(value: Mapping[str, Any], key: str) -> list[str]:
    found = _list(value, key)
    if not all(isinstance(each, str) for each in found):
        raise _wrong(f"{key} is not a list of texts")
    return found


def _number(value: Any, highest: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise _wrong(f"{what} is {value!r}; it is a number from 0 to {highest}")
    return value


def _wrong(what: str) -> InvalidArgument:
    return InvalidArgument(f"a seccomp profile is not as it must be: {what}")
