"""Namespaces: unshare(2), setns(2).

Used by runtime and supervisor alone: in a thread of the daemon either would leak into whatever that thread
does next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shim.kernel import libc

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# Kind, named as in /proc/PID/ns, to its flag.
KINDS: Final[dict[str, int]] = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
}


def flags_of(kinds: Iterable[str]) -> int:
    """Return the CLONE_NEW* bits of kinds, named as in KINDS."""
    flags = 0
    for kind in kinds:
        flags |= KINDS[kind]
    return flags


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones."""
    libc.check(libc.libc.unshare(flags), "unshare")


def setns(fd: int, flags: int = 0, shown: str | None = None) -> None:
    """Join the namespace that ``fd`` names; with a pidfd, those of that process that ``flags`` names."""
    libc.check(libc.libc.setns(fd, flags), "setns", shown)
