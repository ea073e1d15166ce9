"""What a file system has: statvfs(3), and the device it lies on."""

from __future__ import annotations

import errno
import functools
import os
from typing import Final

from shim.errors import KernelError
from shim.kernel import proc
from shim.model.stats import FilesystemCapacity

_FINISHED: Final = (0, 4, 11, 15)  # reads, writes, discards (4.18), flushes (5.5)


def capacity(path: str) -> FilesystemCapacity:
    """Return size and inodes of the file system that a path lies on.

    Raises:
        KernelError: no such path.
    """
    try:
        found, device = os.statvfs(path), os.stat(path).st_dev
    except OSError as error:
        raise KernelError("statvfs", error.errno or errno.EIO, path) from error
    return FilesystemCapacity(
        _device_of(device), found.f_blocks * found.f_frsize, found.f_files, found.f_favail
    )


def transfers(path: str) -> tuple[int, ...] | None:
    """Return how many reads, writes, discards and flushes the block device below a path has finished.

    None where there is no such device, or the kernel does not count (network, memory, several devices).
    Source: Documentation/block/stat.rst; the other fields move also while a device hangs.
    """
    try:
        device = os.stat(path).st_dev
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") as file:
            fields = file.read().split()
            return tuple(int(fields[index]) for index in _FINISHED if index < len(fields))
    except (OSError, ValueError):
        return None


@functools.cache
def _device_of(device: int) -> str:
    """Return what is mounted with a device number, as mountinfo names it; else its number."""
    number = f"{os.major(device)}:{os.minor(device)}"
    sources = (each.source for each in proc.mountinfo() if each.device == number)
    return next(sources, number)


def block_device(major: int, minor: int) -> str:
    """Return the node of a block device, such as ``/dev/vda``; its number if the kernel does not name it."""
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"
