"""Decompression of layers and archives, in pieces of at most CHUNK bytes.

gzip by ISA-L, zstd, or none; xz and bzip2, which no builder uses for layers, but people for archives.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import zstandard
from isal import isal_zlib

from shim.errors import InvalidArgument

CHUNK: Final = 1 << 20
_READ: Final = 1 << 18
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_TAIL: Final = b"\x2a\x4d\x18"  # bytes 1..3 of a zstd skippable frame, as zstd:chunked writes them
_XZ_MAGIC: Final = b"\xfd7zX"
_BZIP2_MAGIC: Final = b"BZh"
_MAX_WINDOW: Final = 1 << 27
_XZ_MEMORY_BYTES: Final = 256 << 20


class Source(Protocol):
    """What can be read; an empty answer means the end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes."""


def detect(head: bytes) -> str:
    """Return ``gzip``, ``zstd``, ``xz``, ``bzip2`` or ``none`` from the first bytes (four are enough)."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _SKIPPABLE_TAIL and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    return "bzip2" if head.startswith(_BZIP2_MAGIC) else "none"


def read_chunks(source: Source) -> Iterator[bytes]:
    """Yield the plain bytes of ``source``, whatever its compression: the bytes say it, not the media type.

    Raises:
        InvalidArgument: the compressed data is damaged or ends too early.
    """
    head = b""
    while len(head) < 4 and (more := source.read(4 - len(head))):
        head += more
    compression = detect(head)
    if compression == "gzip":
        return _gzip(source, head)
    if compression == "zstd":
        return _zstd(source, head)
    if compression == "xz":
        return _streams(source, head, _new_xz, "xz")
    if compression == "bzip2":
        return _streams(source, head, bz2.BZ2Decompressor, "bzip2")
    return _plain(source, head)


def _plain(source: Source, head: bytes) -> Iterator[bytes]:
    if head:
        yield head
    while data := source.read(CHUNK):
        yield data


def _gzip(source: Source, data: bytes) -> Iterator[bytes]:
    """Yield one or more members (RFC 1952); zero bytes after the last are ignored, as gzip does."""
    while data:
        member = isal_zlib.decompressobj(31)
        while not member.eof:
            try:
                out = member.decompress(data, CHUNK)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub calls it a value
                raise InvalidArgument(f"malformed layer: the gzip data is damaged: {error}") from None
            if out:
                yield out
            data = member.unconsumed_tail
            if not data and not out and not member.eof:
                data = source.read(_READ)
                if not data:
                    raise InvalidArgument("malformed layer: the gzip data ends too early")
        data = member.unused_data.lstrip(b"\0")
        while not data and (more := source.read(_READ)):
            data = more.lstrip(b"\0")


class _Joined:
    """A source with some bytes put back."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        self._head = head

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._source.read(size)


def _zstd(source: Source, head: bytes) -> Iterator[bytes]:
    """Yield one or more frames (RFC 8878), skippable ones among them."""
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    with context.stream_reader(_Joined(source, head), read_size=_READ, read_across_frames=True) as stream:  # type: ignore[arg-type]
        try:
            while data := stream.read(CHUNK):
                yield data
        except zstandard.ZstdError as error:
            raise InvalidArgument(f"malformed layer: the zstd data is damaged: {error}") from None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _new_xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


def _streams(source: Source, data: bytes, new: Callable[[], _Decompressor], kind: str) -> Iterator[bytes]:
    """Yield one or more streams of a format that the standard library reads."""
    while data:
        stream = new()
        while True:
            try:
                out = stream.decompress(data, CHUNK)
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise InvalidArgument(f"malformed layer: the {kind} data is damaged: {error}") from None
            data = b""
            if out:
                yield out
            if stream.eof:
                break
            if stream.needs_input:
                data = source.read(_READ)
                if not data:
                    raise InvalidArgument(f"malformed layer: the {kind} data ends too early")
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := source.read(_READ)):
            data = more.lstrip(b"\0")
