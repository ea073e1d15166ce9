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
    """Files of cgroups. Blocking; for one thread, but for ``forget``, which any thread may call.

    Who reads a descriptor, or closes it, has taken it out of its dictionary, which only one thread can do.

    Args:
        most: how many are kept open at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._turn = 0
        self._fds: set[int] = set()
        # By path of the cgroup and name of the file: (descriptor, turn of the last reading).
        self._open: dict[str, dict[str, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self._fds)

    def read(self, mount: str, path: str, name: str) -> bytes:
        """Return what a file of a cgroup says, and keep it open.

        Args:
            mount: of the hierarchy.
            path: of the cgroup.
            name: of the file; one of this name is read of one hierarchy alone.

        Raises:
            KernelError: ENOENT once the cgroup is gone, or where its controller is not enabled.
        """
        files = self._open.get(path)
        kept = files.pop(name, None) if files is not None else None
        if files is not None and kept is not None:
            fd = kept[0]
            try:
                data = cgroupfs.read_open(fd)
            except OSError as error:
                self._close(fd)
                if error.errno not in _GONE:
                    raise KernelError("read", error.errno or errno.EIO, f"{mount}{path}/{name}") from error
                # Its cgroup was removed; there may be another of its name.
            else:
                self._put(path, files, name, fd)
                return data
        file = f"{mount}{path}/{name}"
        if len(self._fds) >= self._most:
            return cgroupfs.read_bytes(file)
        fd, data = cgroupfs.open_and_read(file)
        self._fds.add(fd)
        self._put(path, self._open.setdefault(path, {}), name, fd)
        return data

    def keep(self, paths: Container[str]) -> None:
        """Close the files of all other cgroups, and those that were not read lately."""
        self._turn += 1
        oldest = self._turn - _PATIENCE
        for path, files in list(self._open.items()):
            for name in [name for name, (_, turn) in list(files.items()) if turn < oldest]:
                if kept := files.pop(name, None):
                    self._close(kept[0])
            if path not in paths or not files:
                self.forget(path)

    def forget(self, path: str) -> None:
        """Close the files of a cgroup. Idempotent; any thread may call it."""
        self._close_all(self._open.pop(path, {}))

    def close(self) -> None:
        """Close all."""
        self.keep(())

    def _put(self, path: str, files: dict[str, tuple[int, int]], name: str, fd: int) -> None:
        files[name] = (fd, self._turn)
        if self._open.get(path) is not files:  # forgotten meanwhile
            self._close_all(files)

    def _close_all(self, files: dict[str, tuple[int, int]]) -> None:
        with contextlib.suppress(KeyError):
            while True:
                self._close(files.popitem()[1][0])

    def _close(self, fd: int) -> None:
        self._fds.discard(fd)  # first: its number is another file's at once
        os.close(fd)
