"""Files of an archive or a directory by name, without unpacking it: what images are loaded from.

Nothing is extracted: members are found once, and read or handed on as parts of the open file. Links of an old
docker archive (a layer that is there once and linked to) are followed by name inside it. Blocking.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

from shim.errors import InvalidArgument, NotFound, ResourceExhausted
from shim.images.settings import NO_ROOM
from shim.images.unpack import decompress
from shim.images.unpackers import Part
from shim.kernel import paths

_MAX_MEMBERS: Final = 100_000
_MAX_LINKS: Final = 8


class Bundle(Protocol):
    """A set of named files."""

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file; InvalidArgument if it is not there, or larger than ``limit``."""

    def part(self, name: str) -> tuple[Part, int]:
        """Return (place, size) of a file, good until ``close``; InvalidArgument if there is none."""

    def close(self) -> None:
        """Close it."""


class TarBundle:
    """A tar file. A compressed one is first unpacked into a temporary file in ``spool``.

    Args:
        path: the archive.
        spool: directory for the temporary file.
        limit: bytes that it may take there.
    """

    def __init__(self, path: str, spool: str, limit: int) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (close closes it)
        try:
            head = os.pread(self._file.fileno(), 4, 0)
            if decompress.detect(head) != "none":
                self._inflate(spool, limit)
            self._index(path)
        except BaseException:
            self._file.close()
            raise

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return self._find(name) is not None

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file."""
        part, size = self.part(name)
        if size > limit:
            raise InvalidArgument(f"{name!r} in the archive has {size} bytes, more than {limit}")
        return os.pread(part.fd, size, part.offset)

    def part(self, name: str) -> tuple[Part, int]:
        """Return (place, size) of a file."""
        place = self._find(name)
        if place is None:
            raise InvalidArgument(f"the archive names {name[:200]!r}, but does not have it")
        return Part(self._file.fileno(), place[0]), place[1]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find(self, name: str) -> tuple[int, int] | None:
        name = _clean(name)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        return self._places.get(name)

    def _inflate(self, spool: str, limit: int) -> None:
        plain = tempfile.TemporaryFile(dir=spool)  # noqa: SIM115 (close closes it)
        try:
            with self._file as file:
                for chunk in _at_most(limit, decompress.read_chunks(file)):
                    plain.write(chunk)
            plain.flush()
        except BaseException:
            plain.close()
            raise
        self._file = plain

    def _index(self, path: str) -> None:
        try:
            self._file.seek(0)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                for count, member in enumerate(archive):
                    if count >= _MAX_MEMBERS:
                        raise InvalidArgument(
                            f"{path}: more than {_MAX_MEMBERS} members, this is no image archive"
                        )
                    self._add(member)
                    archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InvalidArgument(f"{path}: this is no image archive: {error}") from None

    def _add(self, member: tarfile.TarInfo) -> None:
        name = _clean(member.name)
        if member.isreg() and not member.issparse():
            self._places[name] = (member.offset_data, member.size)
            self._links.pop(name, None)
        elif member.issym():
            self._links[name] = _clean(posixpath.join(posixpath.dirname(name), member.linkname))
        elif member.islnk():
            self._links[name] = _clean(member.linkname)


class DirectoryBundle:
    """A directory, such as an OCI layout that another tool wrote. Links in it must stay in it."""

    def __init__(self, path: str) -> None:
        self._open = contextlib.ExitStack()
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open.callback(os.close, self._root)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        try:
            os.close(paths.open_beneath(self._root, _clean(name), os.O_PATH))
        except OSError:
            return False
        return True

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file."""
        part, size = self.part(name)
        if size > limit:
            raise InvalidArgument(f"{name!r} has {size} bytes, more than {limit}")
        return os.pread(part.fd, size, 0)

    def part(self, name: str) -> tuple[Part, int]:
        """Return (place, size) of a file."""
        try:
            fd = paths.open_beneath(self._root, _clean(name), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            raise InvalidArgument(f"the directory names {name[:200]!r}, but does not have it") from None
        self._open.callback(os.close, fd)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise InvalidArgument(f"{name[:200]!r} in the directory is no regular file")
        return Part(fd, 0), info.st_size

    def close(self) -> None:
        """Close all files."""
        self._open.close()


def _at_most(limit: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise ResourceExhausted("the archive is larger, when unpacked, than a layer may be")
        yield chunk


def open_bundle(path: str, spool: str, limit: int) -> Bundle:
    """Open an archive or directory.

    Args:
        path: where it is.
        spool: directory that a compressed archive is unpacked in.
        limit: bytes that it may take there.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: it is no archive.
        ResourceExhausted: it takes more than ``limit``, or the disk is full.
    """
    try:
        return DirectoryBundle(path) if os.path.isdir(path) else TarBundle(path, spool, limit)
    except FileNotFoundError:
        raise NotFound("file", path) from None
    except OSError as error:
        if error.errno in NO_ROOM:
            raise ResourceExhausted(f"no space left on the device to unpack {path}") from error
        raise


def _clean(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")
