"""What a process may do: capabilities and seccomp, from what the CRI asks for. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shim.kernel import capabilities
from shim.model.security import Confinement, ContainerSecurity

# What root in a container may do if nothing is said: as containerd and docker have it.
DEFAULT: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
)
_ALL: Final = "ALL"


@dataclass(frozen=True, slots=True)
class Label:
    """What is written to a security attribute of a process: to the first of ``candidates`` that exists."""

    candidates: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Privileges:
    """What a process may do.

    Attributes:
        capabilities: bit N is capability N; no more than the node can give.
        ambient: those that a user other than root keeps.
        missing: names of capabilities that were asked for by name, but that the node cannot give.
        seccomp: BPF program; empty for none.
        seccomp_flags: of seccomp(2).
        labels: what security modules are told at execve.
    """

    capabilities: int
    ambient: int = 0
    missing: tuple[str, ...] = ()
    no_new_privs: bool = False
    seccomp: bytes = field(default=b"", repr=False)
    seccomp_flags: int = 0
    labels: tuple[Label, ...] = ()


def plan_capabilities(security: ContainerSecurity, available: int) -> tuple[int, int, tuple[str, ...]]:
    """Return (capabilities, ambient ones, names of those asked for that are not available).

    Of ``ALL`` and a name, the name counts: ``add ALL, drop NET_RAW`` is all but one.

    Args:
        security: the request.
        available: the bounding set of those who start it.

    Raises:
        InvalidArgument: there is no capability of such a name.
    """
    if security.privileged:
        return available, 0, ()
    asked = security.capabilities
    default = _default_mask()
    wanted = default
    if _has_all(asked.add):
        wanted = available
    if _has_all(asked.drop):
        wanted = 0
    ambient = _mask(_named(asked.add_ambient))
    wanted |= _mask(_named(asked.add)) | ambient
    dropped = _mask(_named(asked.drop))
    wanted &= ~dropped
    lacking = wanted & ~available & ~default
    missing: tuple[str, ...] = ()
    if lacking:
        missing = tuple(name for number, name in enumerate(capabilities.NAMES) if lacking >> number & 1)
    return wanted & available, ambient & wanted & available, missing


def plan_labels(confinement: Confinement) -> tuple[Label, ...]:
    """Return what the security modules are told."""
    labels = []
    if confinement.apparmor:
        # Where several modules are stacked, it has attributes of its own; attr/exec is the first one's.
        labels.append(Label(("attr/apparmor/exec", "attr/exec"), f"exec {confinement.apparmor}"))
    if confinement.process_label:
        labels.append(Label(("attr/exec",), confinement.process_label))
    return tuple(labels)


def _has_all(names: Iterable[str]) -> bool:
    return any(name.upper() == _ALL for name in names)


def _named(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if name.upper() != _ALL)


@functools.cache
def _default_mask() -> int:
    return _mask(DEFAULT)


def _mask(names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        mask |= 1 << capabilities.parse(name)
    return mask
