"""Cgroup files that are read again and again, kept open.

Whoever asks for statistics asks again ten seconds later. To open, read and close a file takes 6 to 8 us, to
read an open one 1 us (``memory.stat``, which the kernel adds up first, 6 us). An open one takes 4.4 KB of the
kernel's memory, so what nobody reads is closed, and there is an end to how many there are: what is above it
is opened for each reading. What is open stays so: closing what was not read for the longest time would close
what is read next, since all are read in turn.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Container
from typing import Final

from shim.errors import KernelError
from shim.kernel import cgroupfs

# A quarter of the descriptors that this process may have; each container takes some others.
_SHARE: Final = 4
_MOST: Final = 16384
# Turns of ``keep`` until a file that nobody reads is closed.
_PATIENCE: Final = 6
_GONE: Final = (errno.ENODEV, errno.ENOENT)


def affordable() -> int:
    """Return how many files may be kept open, by this process's limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(soft // _SHARE, _MOST)


class OpenFiles:
    """Files of cgroups. Blocking; for one thread.

    Args:
        most: how many are kept open at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = self._turn = 0
        # By path of the cgroup and name of the file: [descriptor, turn of the last reading].
        self._open: dict[str, dict[str, list[int]]] = {}

    def __len__(self) -> int:
        return self._count

    def read(self, mount: str, path: str, name: str) -> bytes:
        """Return what a file of a cgroup says.

        Args:
            mount: of the hierarchy.
            path: of the cgroup.
            name: of the file; one of this name is read of one hierarchy alone.

        Raises:
            KernelError: ENOENT once the cgroup is gone, or where its controller is not enabled.
        """
        files = self._open.get(path)
        entry = files.get(name) if files is not None else None
        if entry is not None:
            try:
                data = cgroupfs.read_open(entry[0])
            except OSError as error:
                self._drop(path, name)
                if error.errno not in _GONE:
                    raise KernelError("read", error.errno or errno.EIO, f"{mount}{path}/{name}") from error
                # Its cgroup was removed; there may be another of its name.
            else:
                entry[1] = self._turn
                return data
        file = f"{mount}{path}/{name}"
        if self._count >= self._most:
            return cgroupfs.read_bytes(file)
        fd, data = cgroupfs.open_and_read(file)
        self._open.setdefault(path, {})[name] = [fd, self._turn]
        self._count += 1
        return data

    def keep(self, paths: Container[str]) -> None:
        """Close the files of all other cgroups, and those that were not read lately."""
        self._turn += 1
        oldest = self._turn - _PATIENCE
        for path, files in list(self._open.items()):
            known = path in paths
            for name in [name for name, entry in files.items() if not known or entry[1] < oldest]:
                self._drop(path, name)

    def close(self) -> None:
        """Close all."""
        self.keep(())

    def _drop(self, path: str, name: str) -> None:
        files = self._open[path]
        with contextlib.suppress(OSError):
            os.close(files.pop(name)[0])
        self._count -= 1
        if not files:
            del self._open[path]
