"""Labels of security modules: what a process becomes at its next execve.

They are written to files of /proc, and a container must have no say in what /proc is (CVE-2019-16884): it is
the node's, opened while nothing of the container's is mounted, and the kernel is asked whether it is one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from shim.errors import FailedPrecondition, KernelError
from shim.kernel import files, paths

_PROC_MAGIC: Final = 0x9FA0  # PROC_SUPER_MAGIC of linux/magic.h
_PROC_ROOT_INODE: Final = 1  # PROC_ROOT_INO of linux/proc_fs.h


def open_proc(path: str = "/proc") -> int:
    """Return a descriptor of a procfs, to open files below.

    Raises:
        FailedPrecondition: something else is there.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if files.fstype(fd) == _PROC_MAGIC and os.fstat(fd).st_ino == _PROC_ROOT_INODE:
        return fd
    os.close(fd)
    raise FailedPrecondition(f"{path} is not the root of a proc file system")


def open_attribute(proc_fd: int, candidates: Sequence[str]) -> int:
    """Return a descriptor to write an attribute of this thread by: the first that this kernel has.

    Args:
        proc_fd: of ``open_proc``.
        candidates: such as ``attr/apparmor/exec``.

    Raises:
        FailedPrecondition: there is none of them. KernelError: it cannot be opened.
    """
    for candidate in candidates:
        try:
            # thread-self is an ordinary link; nothing may be mounted on the way.
            how = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_MAGICLINKS | paths.RESOLVE_NO_XDEV
            return paths.openat2(proc_fd, f"thread-self/{candidate}", os.O_WRONLY, resolve=how)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
    raise FailedPrecondition(f"this kernel has no {' or '.join(candidates)} for a process")
