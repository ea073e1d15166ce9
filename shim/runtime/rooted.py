"""Mount points below a new root: looked up by the kernel, so that no link of the image leads out."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from shim.errors import KernelError
from shim.kernel import mount, paths
from shim.runtime.context import Context

_MAX_LINKS: Final = 40  # as the kernel


def target_in_root(root_fd: int, path: str, directory: bool) -> int:
    """Return an O_PATH descriptor of a mount point below the root, made if it is missing.

    A link is followed inside the root, also where it leads nowhere yet: many an image has
    ``/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf``.

    Raises:
        KernelError: ELOOP after too many links.
    """
    if directory:
        return paths.mkdir_in_root(root_fd, path)
    where = path
    for _ in range(_MAX_LINKS):
        parent, _, name = where.rstrip("/").rpartition("/")
        parent_fd = paths.mkdir_in_root(root_fd, parent)
        try:
            try:
                return paths.open_in_root(root_fd, where, os.O_PATH)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
            if _make_file(parent_fd, name):
                return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            link = os.readlink(name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)
        where = link if link.startswith("/") else f"{parent}/{link}"
    raise KernelError("openat2", errno.ELOOP, path)


def _make_file(directory_fd: int, name: str) -> bool:
    """Make an empty file; return False where a link is in its place."""
    flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        os.close(os.open(name, flags, 0o644, dir_fd=directory_fd))
    except FileExistsError:
        return False
    return True


def attach_in_root(context: Context, tree_fd: int, path: str) -> None:
    """Attach a detached tree below the root; its target becomes a file or directory, as the tree is."""
    directory = stat.S_ISDIR(os.fstat(tree_fd).st_mode)
    target = target_in_root(context.look("root"), path, directory)
    try:
        mount.attach(tree_fd, target, path)
    finally:
        os.close(target)
