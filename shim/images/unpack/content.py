"""The content of one file after another, on its way from the archive to the disk."""

from __future__ import annotations

import os

from shim.images.unpack import record, tar
from shim.images.unpack.attributes import set_xattrs, times
from shim.kernel import files


class Content:
    """Takes content as it comes. What belongs to no file (of a whiteout, say) goes into the record.

    Args:
        keep: the record of the layer.
    """

    def __init__(self, keep: record.RecordWriter) -> None:
        self._record = keep
        self._fd = -1
        self._entry: tar.Entry | None = None
        self._left = 0
        self._segment = (0, 0)  # of a sparse file: (index, bytes of it that are written)

    def expect(self, stored: int) -> None:
        """Say that an entry with so many bytes begins; they belong to no file unless ``begin`` follows."""
        self._entry, self._left = None, stored

    def begin(self, entry: tar.Entry, path: bytes, fd: int) -> None:
        """Say that the content is of a file, open for writing as ``fd``, which is closed at its end.

        Args:
            entry: what the archive says of it.
            path: where it lies in the layer, for the record.
            fd: the file; empty.
        """
        self._fd, self._entry, self._segment = fd, entry, (0, 0)
        if entry.segments is None:
            if entry.stored:
                self._record.content(path, 0, entry.stored)
        else:
            os.ftruncate(fd, entry.size)
            for offset, length in entry.segments:
                self._record.content(path, offset, length)
        if not entry.stored:
            self._end()

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._left -= len(data)
        entry = self._entry
        if entry is None:
            self._record.raw(data)
        elif entry.segments is None:
            files.write_all(self._fd, data)
        else:
            self._sparse(entry.segments, data)
        if not self._left and entry is not None:
            self._end()

    @property
    def missing_bytes(self) -> int:
        """How much of the file that is being written is still to come."""
        return self._left if self._entry is not None else 0

    def close(self) -> None:
        """Close the file that is half written, if any."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _sparse(self, segments: list[tuple[int, int]], data: memoryview) -> None:
        """Write content to the places that the map names."""
        index, done = self._segment
        while data:
            offset, length = segments[index]
            part = data[: length - done]
            os.lseek(self._fd, offset + done, os.SEEK_SET)
            files.write_all(self._fd, part)
            data = data[len(part) :]
            done += len(part)
            if done == length:
                index, done = index + 1, 0
        self._segment = (index, done)

    def _end(self) -> None:
        entry, fd = self._entry, self._fd
        self._entry, self._fd = None, -1
        if entry is None:
            return
        try:
            # The owner before the mode and the capabilities: chown(2) clears setuid and security.capability.
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & 0o7000:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry)
            os.utime(fd, ns=times(entry))
        finally:
            os.close(fd)
