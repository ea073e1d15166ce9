"""Removal of whole trees that somebody hostile may have made: any depth, any names, by descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from shim.errors import KernelError

_MAX_HELD: Final = 64
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove a directory and all below it. Idempotent; never follows a link.

    Nesting has no limit: a directory that lies too deep is first moved up to the top.

    Raises:
        KernelError: something could not be removed (in use, read-only file system, …).
    """
    try:
        root = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    except OSError as error:
        raise KernelError("open", error.errno or errno.EIO, path) from error
    try:
        _empty(root, root, 0)
        # Each round finds what the one before moved up.
        while _empty(root, root, 0):
            pass
        os.rmdir(path)
    except OSError as error:
        raise KernelError("unlink", error.errno or errno.EIO, path) from error
    finally:
        os.close(root)


def _empty(root: int, fd: int, depth: int) -> bool:
    """Remove what a directory has; return whether something was moved up to ``root`` instead."""
    moved = False
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in found:
        if not is_dir:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
        elif depth >= _MAX_HELD:
            os.rename(name, os.urandom(8).hex(), src_dir_fd=fd, dst_dir_fd=root)
            moved = True
        else:
            child = os.open(name, _OPEN, dir_fd=fd)
            try:
                moved |= _empty(root, child, depth + 1)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
    return moved
