"""The journal: what has happened, one JSON object a line, in two files of bounded size.

Lines are appended to ``current``; when that has reached its size it becomes ``previous``, and what was
``previous`` is gone. A line that was cut by a crash or cannot be read is passed over. Nothing is synced: a
power loss may cost the last lines, and costs nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from shim.kernel import files
from shim.model.timeline import Entry

log = logging.getLogger(__name__)

VERSION: Final = 1
_MODE: Final = 0o600


class _Line(msgspec.Struct):
    version: int
    entry: Entry


_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


class Journal:
    """The two files. Blocking, and for one caller at a time.

    Args:
        directory: where they are; made if it is missing.
        max_bytes: of both together.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        self._directory = directory
        self._current = os.path.join(directory, "current")
        self._previous = os.path.join(directory, "previous")
        self._max_bytes = max_bytes // 2

    def load(self) -> list[Entry]:
        """Return what is there, the oldest first. Lines that this version cannot read are left out."""
        return [entry for path in (self._previous, self._current) for entry in _read(path)]

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries down.

        Raises:
            OSError: they cannot be written; a part of them may have been.
        """
        data = b"".join(_encoder.encode(_Line(VERSION, entry)) + b"\n" for entry in entries)
        os.makedirs(self._directory, 0o700, exist_ok=True)
        fd = os.open(self._current, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # the line before was cut; this one must not be lost with it
            files.write_all(fd, data)
        finally:
            os.close(fd)
        if size + len(data) >= self._max_bytes:
            os.replace(self._current, self._previous)


def _read(path: str) -> Iterator[Entry]:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            try:
                decoded = _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                log.debug("%s: a line cannot be read", path)
                continue
            if decoded.version == VERSION:
                yield decoded.entry
