"""OOM kills in the slices of systemd, for containers whose own count is gone.

systemd removes the cgroup of a scope as soon as its last process is dead, which may be before anybody has
read there that the OOM killer did it. The slice above counts the kills of all its scopes, and stays: what it
has counted and no scope has told of belongs to a scope that was removed so.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from shim.cgroups import oom


@dataclass(slots=True)
class _Slice:
    told: int
    scopes: int = 0


class SliceKills:
    """How many kills in each slice are known; descriptors are of its ``memory.events``, and the caller's."""

    def __init__(self) -> None:
        self._slices: dict[int, _Slice] = {}  # by inode of the file
        self._scopes: dict[str, tuple[_Slice, int]] = {}

    def enter(self, id_: str, fd: int) -> None:
        """Begin to count for the scope of a child; what was before its slice had one is nobody's."""
        if id_ in self._scopes:
            return
        slice_ = self._slices.setdefault(os.fstat(fd).st_ino, _Slice(_read(fd)))
        slice_.scopes += 1
        self._scopes[id_] = slice_, fd

    def tell(self, id_: str, kills: int) -> None:
        """Take in what the count of a scope itself has risen by."""
        if id_ in self._scopes:
            slice_, fd = self._scopes[id_]
            slice_.told = min(slice_.told + kills, max(_read(fd), slice_.told))

    def take(self, id_: str) -> int:
        """Return, and take as told, the kills that no scope told of, for one that was killed and is gone."""
        if id_ not in self._scopes:
            return 0
        slice_, fd = self._scopes[id_]
        missing = max(_read(fd) - slice_.told, 0)
        slice_.told += missing
        return missing

    def leave(self, id_: str) -> None:
        """Forget a scope, and with its last one a slice. Idempotent."""
        if id_ not in self._scopes:
            return
        slice_, fd = self._scopes.pop(id_)
        slice_.scopes -= 1
        if not slice_.scopes:
            del self._slices[os.fstat(fd).st_ino]


def _read(fd: int) -> int:
    with contextlib.suppress(OSError):  # the slice is gone too
        return oom.parse_kills(os.pread(fd, 4096, 0).decode())
    return 0
