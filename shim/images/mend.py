"""A damaged layer made whole in place, from the same layer unpacked anew beside it. Blocking.

Containers may have the damaged one mounted, so its directories stay the ones they are: only what differs is
replaced, each file by one rename. A container goes on with what it has open; what its kernel has cached of
the damaged files it may see until it is started again.
"""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Final

from shim.images.unpack.directories import is_whiteout
from shim.kernel import files, paths, trees

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SHALLOW: Final = ("st_mode", "st_uid", "st_gid", "st_rdev", "st_size", "st_mtime_ns")


@dataclass(frozen=True, slots=True)
class _Directory:
    """What a directory of the fresh layer is like, before anything is taken out of it."""

    info: os.stat_result
    xattrs: dict[str, bytes]


def mend(damaged: str, fresh: str, trash: str, mark: str) -> list[str]:
    """Make one layer's directory like another's, which is used up.

    It may be done again after a crash in the middle.

    Args:
        damaged: the directory of the layer, with ``fs`` and the records beside it.
        fresh: the directory of the same layer, whole and synced, on the same file system.
        trash: directory for what is taken out.
        mark: name of a file of the damaged layer that stays: the caller's mark that it is damaged.

    Returns:
        The paths below ``fs`` that were replaced, added or taken out.
    """
    os.makedirs(os.path.join(damaged, "fs"), exist_ok=True)
    work = _Mending(os.path.join(damaged, "fs"), os.path.join(fresh, "fs"), trash)
    try:
        work.run()
    finally:
        work.close()
    kept = set(os.listdir(fresh)) - {"fs"}
    for name in set(os.listdir(damaged)) - kept - {"fs", mark}:
        work.discard(os.path.join(damaged, name))
    for name in kept:
        place = os.path.join(damaged, name)
        if os.path.isdir(place):
            work.discard(place)
        os.rename(os.path.join(fresh, name), place)
    return [os.fsdecode(path) for path in work.changed]


class _Mending:
    def __init__(self, old: str, new: str, trash: str) -> None:
        self._old = os.open(old, _OPEN)
        self._new = os.open(new, _OPEN)
        self._trash = trash
        self._known: dict[bytes, _Directory] = {}
        self.changed: list[bytes] = []

    def run(self) -> None:
        todo = [b"."]
        while todo:
            path = todo.pop()
            todo += self._directory(path)
        # Children first: what was done inside a directory has changed its times.
        for path in sorted(self._known, reverse=True):
            self._like(path, self._known[path])

    def close(self) -> None:
        os.close(self._old)
        os.close(self._new)

    def discard(self, path: str) -> None:
        """Take something away, however much lies below it."""
        place = os.path.join(self._trash, secrets.token_hex(8))
        os.rename(path, place)
        trees.remove_tree(place)

    def _directory(self, path: bytes) -> list[bytes]:
        """Make the names in a directory like the fresh one's; return the directories in it."""
        old = paths.open_beneath(self._old, path, _OPEN, follow_symlinks=False)
        new = paths.open_beneath(self._new, path, _OPEN, follow_symlinks=False)
        try:
            self._known[path] = _Directory(os.fstat(new), dict(files.list_xattrs(new)))
            wanted = [os.fsencode(name) for name in os.listdir(new)]
            for name in {os.fsencode(name) for name in os.listdir(old)} - set(wanted):
                self._take_out(old, name)
                self.changed.append(_join(path, name))
            return [_join(path, name) for name in wanted if self._name(old, new, name, path)]
        finally:
            os.close(old)
            os.close(new)

    def _name(self, old: int, new: int, name: bytes, path: bytes) -> bool:
        """Make what lies under one name like the fresh; return whether it is a directory."""
        info = os.stat(name, dir_fd=new, follow_symlinks=False)
        there = _stat(old, name)
        if stat.S_ISDIR(info.st_mode):
            if there is None or not stat.S_ISDIR(there.st_mode):
                if there is not None:
                    self._take_out(old, name)
                os.mkdir(name, 0o700, dir_fd=old)
                self.changed.append(_join(path, name))
            return True
        differs = there is None or not _is_same(old, there, new, info, name)
        # Names of one file stay names of one file only if all of them move.
        if differs or info.st_nlink > 1:
            if there is not None and stat.S_ISDIR(there.st_mode):
                self._take_out(old, name)
            os.rename(name, name, src_dir_fd=new, dst_dir_fd=old)
        if differs:
            self.changed.append(_join(path, name))
        return False

    def _take_out(self, old: int, name: bytes) -> None:
        place = os.path.join(self._trash, secrets.token_hex(8))
        os.rename(name, os.fsencode(place), src_dir_fd=old)
        trees.remove_tree(place)

    def _like(self, path: bytes, wanted: _Directory) -> None:
        fd = paths.open_beneath(self._old, path, _OPEN, follow_symlinks=False)
        try:
            there, info = os.fstat(fd), wanted.info
            if (there.st_uid, there.st_gid) != (info.st_uid, info.st_gid):
                os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
            xattrs = dict(files.list_xattrs(fd))
            for name in xattrs.keys() - wanted.xattrs.keys():
                os.removexattr(fd, name)
            for name, value in wanted.xattrs.items():
                if xattrs.get(name) != value:
                    files.set_xattr(fd, name, value)
            os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(fd)


def _join(path: bytes, name: bytes) -> bytes:
    return name if path == b"." else path + b"/" + name


def _stat(dir_fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_same(old: int, there: os.stat_result, new: int, info: os.stat_result, name: bytes) -> bool:
    if is_whiteout(there) and is_whiteout(info):
        return True
    if any(getattr(there, key) != getattr(info, key) for key in _SHALLOW):
        return False
    first, second = files.fd_path(old, name), files.fd_path(new, name)
    if dict(files.list_xattrs(first)) != dict(files.list_xattrs(second)):
        return False
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(first) == os.readlink(second)
    if not stat.S_ISREG(info.st_mode):
        return True
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError as error:
        if error.errno in (errno.EIO, errno.EUCLEAN):  # the disk cannot read what was there
            return False
        raise
    finally:
        filecmp.clear_cache()
