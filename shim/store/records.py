"""Specs and statuses as versioned JSON, and back.

A record is an object with a ``version``; bytes are base64. A file is replaced as a whole. One of another
version, or that is no record at all, is an error that the caller answers by putting it into quarantine: it
never stops a daemon from starting.
"""

from __future__ import annotations

import errno
from typing import Final, TypeVar

import msgspec

from shim.errors import Internal, KernelError
from shim.kernel import files

T = TypeVar("T")

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class UnreadableRecord(Internal):
    """A file that should be a record is none that this version can read."""


def encode(record: object) -> bytes:
    """Return a record as JSON, indented for a person who looks."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def decode(data: bytes, kind: type[T], path: str) -> T:
    """Return the record in ``data``.

    Raises:
        UnreadableRecord: it is none, or of another version; names ``path``.
    """
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnreadableRecord(f"{path} is no record of a {kind.__name__}: {error}") from None
    version = getattr(record, "version", 1)
    if version != 1:
        raise UnreadableRecord(f"{path} has record version {version}, this program knows 1")
    return record


def load(path: str, kind: type[T]) -> T:
    """Return the record in a file.

    Raises:
        UnreadableRecord: there is none, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return decode(file.read(), kind, path)
    except OSError as error:
        raise UnreadableRecord(f"cannot read {path}: {error.strerror}") from None


def save(path: str, record: object) -> None:
    """Replace the record in a file; readers see the old one or the new one, whole.

    Not synced: a power loss ends every pod, and the next boot voids their records.

    Raises:
        KernelError: the old one is as it was.
    """
    files.write_atomic(path, encode(record))


def replace(path: str, record: object) -> None:
    """Do as ``save`` where there is a record already, also on a full disk.

    A container that has filled the disk must be stopped and removed to make room, and both are written down.
    Then the old file's own blocks take the new record, in one write.

    Raises:
        KernelError: not even that is possible; the old one is as it was.
    """
    data = encode(record)
    try:
        files.write_atomic(path, data)
    except KernelError as error:
        if error.errno not in _FULL:
            raise
        files.overwrite(path, data, filler=b"\n")
