"""Copies a directory of an image, with everything that belongs to it, into a volume.

Both sides are walked by descriptor, one name at a time, and no link is ever followed: what an image holds
cannot lead out of it, nor what was copied out of the volume (CVE-2022-23648).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final

from shim.errors import InvalidArgument
from shim.kernel import files

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 30
_DEEPEST: Final = 256
_OVERLAYS: Final = "trusted.overlay."


def copy_directory(source: int, target: int) -> None:
    """Copy what a directory holds, and what it is like, into one that is empty.

    Owners, modes, times, extended attributes and hard links are kept.

    Args:
        source: descriptor of a directory, open for reading.
        target: descriptor of another one, open for reading.

    Raises:
        InvalidArgument: directories are nested too deep.
        OSError: no space, or another refusal of the kernel.
    """
    _Copy(target).directory(source, target, b"", 0)


@dataclass
class _Copy:
    root: int
    known: dict[tuple[int, int], bytes] = field(default_factory=dict)  # inode to its first copy

    def directory(self, source: int, target: int, path: bytes, depth: int) -> None:
        if depth > _DEEPEST:
            raise InvalidArgument(f"directories of the image are nested deeper than {_DEEPEST}")
        for name in os.listdir(files.fd_path(source)):
            self._entry(source, target, name, os.path.join(path, name), depth)
        _describe(os.fstat(source), source, target)

    def _entry(self, source: int, target: int, name: bytes, path: bytes, depth: int) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFDIR:
                os.mkdir(name, 0o700, dir_fd=target)
                below, copy = (os.open(name, _DIRECTORY, dir_fd=fd) for fd in (source, target))
                try:
                    self.directory(below, copy, path, depth + 1)
                finally:
                    os.close(below)
                    os.close(copy)
            case stat.S_IFREG:
                first = self.known.get((status.st_dev, status.st_ino))
                if first is not None:
                    os.link(first, name, src_dir_fd=self.root, dst_dir_fd=target, follow_symlinks=False)
                    return
                _copy_file(source, target, name)
                if status.st_nlink > 1:
                    self.known[status.st_dev, status.st_ino] = path
            case stat.S_IFLNK:
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                _describe_name(status, source, target, name)
            case _:
                os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
                _describe_name(status, source, target, name)


def _copy_file(source: int, target: int, name: bytes) -> None:
    reader = os.open(name, _READ, dir_fd=source)
    try:
        writer = os.open(name, _WRITE, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, _CHUNK):
                pass
            _describe(os.fstat(reader), reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _describe(status: os.stat_result, source: int, target: int) -> None:
    """Owner first: a change of owner takes set-id bits and capabilities away."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for key, value in files.list_xattrs(source):
        if not key.startswith(_OVERLAYS):
            files.set_xattr(target, key, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _describe_name(status: os.stat_result, source: int, target: int, name: bytes) -> None:
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    for key, value in files.list_xattrs(files.fd_path(source, name)):
        if not key.startswith(_OVERLAYS):
            files.set_xattr(files.fd_path(target, name), key, value)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
