"""Paths inside a tree that somebody hostile has filled (openat2(2)).

A path of a container's root file system, or of an image's layer, is never joined to a string: an absolute
link, ``..`` or a link swapped in the meantime would lead to the host. The kernel resolves it below a
descriptor of that tree: ``open_in_root`` as chroot would (links stay inside), ``open_beneath`` so that
whatever would leave is an error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

from shim.errors import KernelError
from shim.kernel import libc

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_MAX_LINKS: Final = 40  # as many as the kernel follows (path_resolution(7))
_MAX_RACES: Final = 128
_O_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE: Final = ctypes.sizeof(_OpenHow)


def openat2(dir_fd: int, path: str | bytes, flags: int, resolve: int) -> int:
    """Return a descriptor of what is there, as openat2(2) does; O_CLOEXEC is always set.

    The kernel answers EAGAIN when something in the tree was renamed meanwhile and it cannot be sure that
    ``..`` stayed inside; that is tried again.

    Raises:
        KernelError: EXDEV where the path would leave the tree, ELOOP for a link that is not allowed.
    """
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise KernelError("openat2", errno.EINVAL, os.fsdecode(raw))
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_MAX_RACES):
        fd = libc.syscall(libc.SYS_OPENAT2, dir_fd, raw, ctypes.byref(how), _SIZE)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            raise KernelError("openat2", code, os.fsdecode(raw))
    raise KernelError("openat2", errno.EAGAIN, os.fsdecode(raw))


def open_in_root(root_fd: int, path: str | bytes, flags: int) -> int:
    """Open ``path`` as if ``root_fd`` were the root directory: links and ``..`` stay inside."""
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(dir_fd: int, path: str | bytes, flags: int, *, follow_symlinks: bool = True) -> int:
    """Open ``path`` below ``dir_fd``; what would leave it (absolute, a link, ``..``) fails with EXDEV.

    Args:
        dir_fd: directory to stay in.
        path: relative path.
        flags: as of open(2).
        follow_symlinks: with False, any link on the way fails with ELOOP.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
    if not follow_symlinks:
        resolve |= RESOLVE_NO_SYMLINKS
    return openat2(dir_fd, path, flags, resolve)


def mkdir_in_root(root_fd: int, path: str | bytes, mode: int = 0o755) -> int:
    """Make a directory and its missing parents as if ``root_fd`` were the root; return it as an O_PATH fd.

    Links are followed inside the root, dangling ones too (``/var/run -> /run`` makes ``/run``). Directories
    that are there keep their mode.

    Raises:
        KernelError: ENOTDIR where a file is in the way, ELOOP after too many links.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    return _make_on_the_way(root_fd, os.fsencode(path), mode)


def _make_on_the_way(root_fd: int, whole: bytes, mode: int) -> int:
    """Walk a path and make what is missing.

    The walk holds a descriptor of each level and never asks the kernel for ``..``, so that a rename by
    somebody else cannot lead it out.
    """
    todo = _parts(whole)
    links = 0
    stack = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)]
    try:
        while todo:
            name = todo.pop()
            if name == b"..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            fd = _enter(stack[-1], name, mode, whole)
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if kind == stat.S_IFDIR:
                stack.append(fd)
                continue
            target = os.readlink(b"", dir_fd=fd) if kind == stat.S_IFLNK else b""
            os.close(fd)
            links += 1
            if kind != stat.S_IFLNK or links > _MAX_LINKS:
                code = errno.ENOTDIR if kind != stat.S_IFLNK else errno.ELOOP
                raise KernelError("openat2", code, os.fsdecode(whole))
            if target.startswith(b"/"):
                while len(stack) > 1:
                    os.close(stack.pop())
            todo.extend(_parts(target))
        return stack.pop()
    finally:
        for fd in stack:
            os.close(fd)


def _parts(path: bytes) -> list[bytes]:
    """Return the names of a path, the last one first, to be popped in order."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


def _enter(dir_fd: int, name: bytes, mode: int, whole: bytes) -> int:
    """Return an O_PATH fd of ``name``, made as a directory if nothing is there."""
    for _ in range(_MAX_RACES):
        try:
            return os.open(name, _O_LOOK, dir_fd=dir_fd)
        except FileNotFoundError:
            try:
                os.mkdir(name, mode, dir_fd=dir_fd)
            except FileExistsError:
                continue
            except OSError as error:
                raise KernelError("mkdirat", error.errno or errno.EIO, os.fsdecode(whole)) from error
    raise KernelError("mkdirat", errno.EAGAIN, os.fsdecode(whole))
