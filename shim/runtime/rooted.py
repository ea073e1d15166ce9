"""Mount points below a new root: looked up by the kernel, so that no link of the image leads out."""

from __future__ import annotations

import errno
import os
import stat

from shim.errors import KernelError
from shim.kernel import mount, paths
from shim.runtime.context import Context


def target_in_root(root_fd: int, path: str, directory: bool) -> int:
    """Return an O_PATH descriptor of a mount point below the root, made if it is missing."""
    if directory:
        return paths.mkdir_in_root(root_fd, path)
    parent, _, name = path.rstrip("/").rpartition("/")
    parent_fd = paths.mkdir_in_root(root_fd, parent)
    try:
        try:
            return paths.open_in_root(root_fd, path, os.O_PATH)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
        os.close(
            os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=parent_fd)
        )
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    finally:
        os.close(parent_fd)


def attach_in_root(context: Context, tree_fd: int, path: str) -> None:
    """Attach a detached tree below the root; its target becomes a file or directory, as the tree is."""
    directory = stat.S_ISDIR(os.fstat(tree_fd).st_mode)
    target = target_in_root(context.look("root"), path, directory)
    try:
        mount.attach(tree_fd, target, path)
    finally:
        os.close(target)
