"""The directories of a layer while it is unpacked: found once, held as descriptors, never by string.

The layer's tree is hostile while it grows: an entry may be a link that leads out, and a later entry may go
through it. So a parent is opened by openat2 with RESOLVE_IN_ROOT (a link stays inside the layer), and its
descriptor serves all entries below it until something is moved away.

A link may lead to a directory that only a lower layer has: it is made here, implied, at the place that the
link names, as if the layer were unpacked on top of the others. Where a lower layer has a link under the name
of an implied directory, only ``deferred`` can see it; then the layer is unpacked again with ``aliases``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shim.errors import InvalidArgument, KernelError
from shim.kernel import files, paths

OPAQUE: Final = b"trusted.overlay.opaque"
_HELD: Final = 200
_MAX_LINKS: Final = 40  # as many as the kernel follows (path_resolution(7))
_PATH_ONLY: Final = os.O_PATH | os.O_DIRECTORY
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def _nothing(_: bytes) -> None:
    pass


class Directories:
    """Descriptors of the directories below ``root_fd``, by the path that entries use.

    Args:
        root_fd: the tree.
        on_make: called with the path of a directory that was made though no entry describes it.

    Attributes:
        implied: directories that were made only because something lies in them, by their real place; they
            take mode, owner, times and attributes from the layers below, or the archive names them later.
        opaque: directories that hide what the layers below have; ``b""`` is the layer's root.
        went_through_links: the path of a directory led through a link of the layer.
    """

    def __init__(self, root_fd: int, on_make: Callable[[bytes], None] = _nothing) -> None:
        self._root_fd = root_fd
        self._on_make = on_make
        self._fds: OrderedDict[bytes, int] = OrderedDict()
        self.implied: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.went_through_links = False

    def fd(self, path: bytes) -> int:
        """Return a descriptor (O_PATH) of a directory, made with its parents if it is not there.

        It is good until the next call. ``path`` is clean (see ``writer.clean``); ``b""`` is the root.
        """
        if not path:
            return self._root_fd
        held = self._fds.get(path)
        if held is not None:
            return held
        fd = self._open(path)
        self._hold(path, fd)
        return fd

    def _hold(self, path: bytes, fd: int) -> None:
        if len(self._fds) >= _HELD:
            os.close(self._fds.popitem(last=False)[1])
        self._fds[path] = fd

    def forget(self) -> None:
        """Drop all descriptors: something was moved, a path may mean another directory now."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def close(self) -> None:
        """Drop all descriptors."""
        self.forget()

    def set_opaque(self, path: bytes) -> None:
        """Make a directory hide those of the same path in the layers below."""
        if path:
            files.set_xattr(files.fd_path(self.fd(path), b"."), OPAQUE, b"y")
        self.opaque.add(path)

    def hides(self, path: bytes) -> bool:
        """Tell whether nothing of the layers below shows in a directory: it or one above it is opaque."""
        if not self.opaque:
            return False
        end = len(path)
        while end > 0 and path[:end] not in self.opaque:
            end = path.rfind(b"/", 0, end)
        return end > 0 or b"" in self.opaque

    def _open(self, path: bytes) -> int:
        try:
            return paths.open_beneath(self._root_fd, path, _PATH_ONLY, follow_symlinks=False)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return self._make(path)
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        self.went_through_links = True
        try:
            return paths.open_in_root(self._root_fd, path, _PATH_ONLY)
        except KernelError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return self._make(path)

    def _make(self, path: bytes) -> int:
        """Make what is missing of ``path``, one name after another from the root; links stay inside it."""
        parent, _, base = path.rpartition(b"/")
        if parent in self._fds and not self.went_through_links:
            fd = self._step(self._fds[parent], base, path)
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        todo = parts(path)
        stack = [os.open(".", _PATH_ONLY | os.O_CLOEXEC, dir_fd=self._root_fd)]
        names: list[bytes] = []
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == b"..":
                    if names:
                        names.pop()
                        os.close(stack.pop())
                    continue
                fd = self._step(stack[-1], name, b"/".join((*names, name)))
                info = os.fstat(fd)
                if stat.S_ISDIR(info.st_mode):
                    stack.append(fd)
                    names.append(name)
                    continue
                target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else b""
                os.close(fd)
                links += 1
                if not target or links > _MAX_LINKS:
                    raise InvalidArgument(
                        f"malformed layer: an entry lies below {os.fsdecode(path)!r}, which is no directory"
                    )
                if target.startswith(b"/"):
                    while names:
                        names.pop()
                        os.close(stack.pop())
                todo.extend(parts(target))
            fd = stack.pop()
            if parent and parent not in self._fds and not self.went_through_links:
                self._hold(parent, stack.pop())  # for what else lies there
            return fd
        finally:
            for fd in stack:
                os.close(fd)

    def _step(self, parent: int, name: bytes, done: bytes) -> int:
        """Return an O_PATH descriptor of what lies under a name; a directory is made if nothing does."""
        covers = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            self._on_make(done)
        except FileExistsError:
            if not is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                return os.open(name, _LOOK, dir_fd=parent)
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            covers = True
        self.implied.add(done)
        fd = os.open(name, _LOOK, dir_fd=parent)
        if covers:
            # The archive deleted the name and then uses it as a directory: what lies below stays hidden.
            files.set_xattr(files.fd_path(fd, b"."), OPAQUE, b"y")
            self.opaque.add(done)
        return fd


def parts(path: bytes) -> list[bytes]:
    """Return the names of a path, the last one first, to be popped in order."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


def is_whiteout(info: os.stat_result) -> bool:
    """Tell whether this is overlayfs' mark of a deleted name: a character device 0/0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
