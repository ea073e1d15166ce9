"""Files that are whole or absent: atomic replacement, syncing, extended attributes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator
from typing import Final

from shim.errors import KernelError
from shim.kernel import libc

SELINUX: Final = "security.selinux"  # the attribute of a file's label

_STATFS_BYTES: Final = 256
_F_TYPE: Final = struct.Struct("@l")
_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # as write_atomic names them


def write_atomic(path: str | os.PathLike[str], data: bytes, mode: int = 0o600, durable: bool = False) -> None:
    """Replace a file as a whole: readers see the old content or the new one, never a part.

    Args:
        path: the file; its directory exists.
        data: the new content.
        mode: of the file, whatever the umask.
        durable: also survive power loss: the file is synced before, its directory after the rename.

    Raises:
        KernelError: nothing is left behind, the old file is as it was.
    """
    path = os.fspath(path)
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise KernelError("write", error.errno or errno.EIO, path) from error
    if durable:
        fsync_dir(directory or ".")


def remove_temporaries(directory: str) -> None:
    """Remove what ``write_atomic`` was writing in a directory when it was killed; nobody may be writing now.

    Idempotent; a directory that is not there has none.
    """
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if _TEMPORARY.fullmatch(name):
                os.unlink(os.path.join(directory, name))


def overwrite(path: str, data: bytes, filler: bytes) -> None:
    """Write over a file's content, in the room that it has.

    Args:
        path: the file.
        data: the new content.
        filler: one byte, repeated after it up to the length of the old content.

    Raises:
        KernelError: the content is as it was.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            before = os.fstat(fd).st_size
            if len(data) > before:
                _make_room(fd, before, len(data))
            write_all(fd, data.ljust(before, filler))
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError("write", error.errno or errno.EIO, path) from error


def _make_room(fd: int, before: int, wanted: int) -> None:
    try:
        os.posix_fallocate(fd, 0, wanted)
    except OSError:
        os.ftruncate(fd, before)  # some file systems keep what they had found: zeros at the end
        raise


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write everything, however many write(2) calls it takes."""
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += os.write(fd, view[done:])


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable (fsync(2) of the directory)."""
    path = os.fspath(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError("fsync", error.errno or errno.EIO, path) from error


def syncfs(fd: int) -> None:
    """Write out the whole file system that ``fd`` lies on (syncfs(2)).

    Since Linux 5.8 it also tells of a write-back that failed meanwhile.
    """
    libc.check(libc.libc.syncfs(fd), "syncfs")


def fd_path(dir_fd: int, name: str | bytes = b"") -> bytes:
    """Return a path below a descriptor, for calls that take no dir_fd (the xattr family).

    The directory is reached through ``/proc/self/fd``; only ``name``, a single component, is looked up.
    """
    raw = os.fsencode(name)
    return b"/proc/self/fd/%d/%s" % (dir_fd, raw) if raw else b"/proc/self/fd/%d" % dir_fd


def list_xattrs(path: str | bytes | int, *, follow_symlinks: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield each extended attribute and its value; nothing where the file system has none.

    The label of SELinux is none of them: it says where a file lies, and does not go with its content.
    """
    follow = follow_symlinks or isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise KernelError("listxattr", error.errno or errno.EIO, _text(path)) from error
    for name in names:
        if name == SELINUX:
            continue
        yield name, os.getxattr(path, name, follow_symlinks=follow)


def set_xattr(path: str | bytes | int, name: str | bytes, value: bytes) -> None:
    """Set one extended attribute of a descriptor, or of a path without following a link at its end.

    Raises:
        KernelError: ENOTSUP where the file system or kind of file has none.
    """
    try:
        os.setxattr(path, name, value, follow_symlinks=isinstance(path, int))
    except OSError as error:
        raise KernelError("setxattr", error.errno or errno.EIO, f"{_text(path)} ({name!r})") from error


def set_label(path: str | int, label: str) -> None:
    """Give a descriptor, or what a path names, a label of SELinux.

    Raises:
        KernelError: ENOTSUP where the file system has labels of its own, or none.
    """
    set_xattr(path, SELINUX, label.encode() + b"\0")


def disk_usage(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (bytes, inodes) that a tree takes on disk; a file with several names counts once.

    Walks the tree: never on the path of a request.
    """
    linked: set[tuple[int, int]] = set()
    used = inodes = 0
    todo = [os.fspath(path)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    is_dir = entry.is_dir(follow_symlinks=False)
                    if info.st_nlink > 1 and not is_dir:
                        if (info.st_dev, info.st_ino) in linked:
                            continue
                        linked.add((info.st_dev, info.st_ino))
                    inodes += 1
                    used += info.st_blocks * 512
                    if is_dir:
                        todo.append(entry.path)
    return used, inodes


def fstype(fd: int) -> int:
    """Return the magic number of the file system that a descriptor is in (statfs(2), linux/magic.h)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc.check(libc.libc.fstatfs(fd, buffer), "fstatfs")
    return int(_F_TYPE.unpack_from(buffer)[0])


def _text(path: str | bytes | int) -> str:
    return f"fd {path}" if isinstance(path, int) else os.fsdecode(path)
