"""What the log files of containers take on disk, with those that were rotated."""

from __future__ import annotations

import os
from collections.abc import Container

_BLOCK = 512  # the unit of st_blocks


class LogUsage:
    """(bytes, inodes) by container id, as last measured. Measuring blocks; asking does not."""

    def __init__(self) -> None:
        self._usage: dict[str, tuple[int, int]] = {}

    def get(self, id_: str) -> tuple[int, int]:
        """Return what was measured last; (0, 0) where nothing was."""
        return self._usage.get(id_, (0, 0))

    def measure(self, id_: str, log_path: str) -> None:
        """Look at the directory of a container's log. What is not there, or cannot be read, takes nothing."""
        self._usage[id_] = disk_usage(log_path) if log_path else (0, 0)

    def keep(self, ids: Container[str]) -> None:
        """Forget all others."""
        for id_ in [id_ for id_ in self._usage if id_ not in ids]:
            del self._usage[id_]


def disk_usage(log_path: str) -> tuple[int, int]:
    """Return (bytes, inodes) of a log and of its older parts, which a kubelet names ``<log>.<time>[.gz]``."""
    directory, name = os.path.split(log_path)
    used = inodes = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == name or entry.name.startswith(f"{name}."):
                    used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    inodes += 1
    except OSError:
        return 0, 0
    return used, inodes
