"""Layers seen as one tree, without mounting them: what overlayfs would show, read by descriptor.

Every step of a path is one name below a descriptor, links are followed inside the tree only, whiteouts and
opaque directories hide what is below. So nothing outside the layers can be reached, whatever they hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from shim.errors import KernelError
from shim.images.unpack.directories import OPAQUE, is_whiteout, parts
from shim.kernel import files

_MAX_LINKS: Final = 40
_MAX_HELD: Final = 2000  # descriptors: a hostile tree that is deep in many layers counts as not found
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class MergedTree:
    """A stack of layers, the topmost first, as with overlayfs' ``lowerdir``. Use as a context."""

    def __init__(self, lowers: Sequence[str | bytes]) -> None:
        self._open = contextlib.ExitStack()
        self._roots: list[int] = []
        try:
            for path in lowers:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._open.callback(os.close, fd)
                self._roots.append(fd)
        except OSError as error:
            self._open.close()
            raise KernelError("open", error.errno or errno.EIO, str(error.filename)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @contextlib.contextmanager
    def find(self, path: bytes, *, follow: bool = True) -> Iterator[int | None]:
        """Give an O_PATH descriptor of what lies at a path, None if there is nothing.

        Args:
            path: from the root of the tree; ``..`` stops there.
            follow: with False, a link at the very end is itself the answer.
        """
        with contextlib.ExitStack() as held:
            yield self._walk(path, follow, held)

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Return the content of a regular file; None if there is none or it is longer than ``limit``."""
        with self.find(path) as fd:
            if fd is None:
                return None
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
                return None
            with open(files.fd_path(fd), "rb") as file:
                return file.read(limit)

    def resolve(self, path: bytes) -> bytes | None:
        """Return a path with all links on it followed, clean; None after too many links.

        What does not exist stays as it is named: it can be made there.
        """
        with contextlib.ExitStack() as held:
            return self._follow(path, True, held)[0]

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """Give what finds many paths one after another, and what they have in common once."""
        with contextlib.closing(Cursor(self._roots)) as cursor:
            yield cursor

    def _walk(self, path: bytes, follow: bool, held: contextlib.ExitStack) -> int | None:
        _, found = self._follow(path, follow, held)
        return found[0] if found else None

    def _follow(
        self, path: bytes, follow: bool, held: contextlib.ExitStack
    ) -> tuple[bytes | None, list[int]]:
        """Return (real path, what lies there from the top down); (None, nothing) after too many links."""
        todo = parts(path)
        names: list[bytes] = []
        levels: list[list[int]] = [self._roots]
        links = opened = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del names[-1:], levels[max(1, len(levels) - 1) :]
                continue
            found = _lookup(levels[-1], name, held)
            opened += len(found)
            if opened > _MAX_HELD:
                return None, []
            if found and stat.S_ISLNK(os.fstat(found[0]).st_mode) and (follow or todo):
                links += 1
                if links > _MAX_LINKS:
                    return None, []
                target = os.readlink(b"", dir_fd=found[0])
                if target.startswith(b"/"):
                    del names[:], levels[1:]
                todo.extend(parts(target))
            else:
                names.append(name)
                levels.append(found)
        return b"/".join(names), levels[-1]


class Cursor:
    """Finds one path after another; made for such as come in ``tree_order``. Follows no links.

    Args:
        roots: descriptors of the layers' roots, the topmost first; they stay the caller's.
    """

    def __init__(self, roots: list[int]) -> None:
        self._names: list[bytes] = []
        self._levels: list[list[int]] = [roots]
        self._holds: list[contextlib.ExitStack] = []
        self._held = 0

    def find(self, path: bytes) -> int | None:
        """Return an O_PATH descriptor of what lies at a path, good until the next call; None if nothing does.

        Args:
            path: clean, from the root of the tree.
        """
        names = path.split(b"/")
        self._back(_in_common(names, self._names))
        for name in names[len(self._names) :]:
            self._down(name)
        return next(iter(self._levels[-1]), None)

    def close(self) -> None:
        """Close all descriptors."""
        self._back(0)

    def _back(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            self._held -= len(self._levels.pop())
            self._holds.pop().close()

    def _down(self, name: bytes) -> None:
        hold = contextlib.ExitStack()
        self._holds.append(hold)
        self._names.append(name)
        found = _lookup(self._levels[-1], name, hold)
        if self._held + len(found) > _MAX_HELD:
            hold.close()
            found = []
        self._levels.append(found)
        self._held += len(found)


def tree_order(paths: Iterable[bytes]) -> list[bytes]:
    """Return clean paths in the order of a walk: all that lies in a directory comes right after it. Pure."""
    return sorted(paths, key=lambda path: path.replace(b"/", b"\0"))


def _in_common(first: Sequence[bytes], second: Sequence[bytes]) -> int:
    for count, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return count
    return min(len(first), len(second))


def _lookup(dirs: list[int], name: bytes, held: contextlib.ExitStack) -> list[int]:
    """Return what overlayfs merges under a name: one file, or directories from the top down."""
    found: list[int] = []
    for dir_fd in dirs:
        try:
            fd = os.open(name, _LOOK, dir_fd=dir_fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            if error.errno == errno.ENAMETOOLONG:
                break
            raise
        held.callback(os.close, fd)
        info = os.fstat(fd)
        if is_whiteout(info):
            break
        if not stat.S_ISDIR(info.st_mode):
            if not found:
                found.append(fd)
            break
        found.append(fd)
        if is_opaque(fd):
            break
    return found


def is_opaque(fd: int) -> bool:
    """Tell whether a directory hides those of the same path in the layers below."""
    try:
        return os.getxattr(files.fd_path(fd, b"."), OPAQUE) == b"y"
    except OSError:
        return False
