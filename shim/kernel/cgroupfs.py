"""Files and directories of the cgroup file systems (cgroups(7)); every failure names its path."""

from __future__ import annotations

import errno
import os
from typing import Final

from shim.errors import KernelError

_MARK: Final = "trusted.cri_shim"
_CHUNK: Final = 64 * 1024
_PAGE: Final = 2048


def read(path: str) -> str:
    """Return what a cgroup file says.

    Raises:
        KernelError: ENOENT once the cgroup is gone, or where its controller is not enabled.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [os.read(fd, _CHUNK)]
            while parts[-1]:
                parts.append(os.read(fd, _CHUNK))
        finally:
            os.close(fd)
        return b"".join(parts).decode(errors="surrogateescape")
    except OSError as error:
        raise KernelError("read", error.errno or errno.EIO, path) from error


def read_bytes(path: str) -> bytes:
    """Return what a cgroup file says, for those who read many: one open, read and close where it is short.

    Raises:
        KernelError: ENOENT once the cgroup is gone, or where its controller is not enabled; ENODEV if it goes
            just now.
    """
    fd, data = open_and_read(path)
    os.close(fd)
    return data


def open_and_read(path: str) -> tuple[int, bytes]:
    """Return a descriptor of a cgroup file, the caller's, and what it says.

    Raises:
        KernelError: as ``read_bytes``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return fd, read_open(fd)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise KernelError("read", error.errno or errno.EIO, path) from error


def read_open(fd: int) -> bytes:
    """Return what a cgroup file that is open says now.

    Raises:
        OSError: ENODEV once the cgroup is gone.
    """
    data = part = os.pread(fd, _CHUNK, 0)
    while len(part) >= _PAGE:  # lists come in pages, all else at once
        part = os.pread(fd, _CHUNK, len(data))
        data += part
    return data


def write(path: str, *values: str) -> None:
    """Write values, each in one write(2), as these files demand; a file that is missing is not made.

    Raises:
        KernelError: the kernel does not take one of them; those before are in force.
    """
    value = ", ".join(values)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                os.write(fd, value.encode(errors="surrogateescape"))
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError("write", error.errno or errno.EIO, f"{path} ({value!r})") from error


def make(path: str) -> bool:
    """Make one cgroup; return whether it is new.

    Raises:
        KernelError: ENOENT where its parent is missing.
    """
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except OSError as error:
        raise KernelError("mkdir", error.errno or errno.EIO, path) from error
    return True


def remove(path: str) -> bool:
    """Remove one cgroup; return whether it is gone. Idempotent; False while something lives in or below it.

    Raises:
        KernelError: the kernel refuses for another reason.
    """
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise KernelError("rmdir", error.errno or errno.EIO, path) from error
    return True


def children(path: str) -> list[str]:
    """Return the names of the cgroups just below one; none if it is gone."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed while it was open
            return []
        raise KernelError("readdir", error.errno or errno.EIO, path) from error


def mark(path: str) -> None:
    """Write on a cgroup that this program made it; the mark goes with the cgroup.

    Raises:
        KernelError: no such cgroup, or no right to.
    """
    try:
        os.setxattr(path, _MARK, b"1")
    except OSError as error:
        raise KernelError("setxattr", error.errno or errno.EIO, path) from error


def is_marked(path: str) -> bool:
    """Tell whether this program made a cgroup; False once it is gone."""
    try:
        return bool(os.getxattr(path, _MARK))
    except OSError:
        return False
