"""Frames of SPDY/3.1 as bytes: layout, numbers, header blocks. Pure.

Source: SPDY Protocol, Draft 3.1, sections 2.2 to 2.6.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterable
from typing import Final

VERSION: Final = 3
CONTROL: Final = 0x8000
FRAME_HEADER: Final = struct.Struct(">HHI")  # control: version, type, flags and length
DATA_HEADER: Final = struct.Struct(">II")  # data: stream, flags and length
FRAME_BYTES: Final = 8
MAX_LENGTH: Final = (1 << 24) - 1
STREAM_MASK: Final = 0x7FFFFFFF

FLAG_FIN: Final = 1
FLAG_UNIDIRECTIONAL: Final = 2

DEFAULT_WINDOW: Final = 64 * 1024

Headers = tuple[tuple[str, str], ...]


class Type(enum.IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Reset(enum.IntEnum):
    """Why a stream is broken off (RST_STREAM)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    FRAME_TOO_LARGE = 11


class GoAway(enum.IntEnum):
    """Why a connection is left (GOAWAY)."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


SETTINGS_INITIAL_WINDOW: Final = 7

# What the header compression of both ends knows before the first byte: words with their lengths, then text.
_WORDS: Final = """
    options head post put delete trace accept accept-charset accept-encoding accept-language
    accept-ranges age allow authorization cache-control connection content-base content-encoding
    content-language content-length content-location content-md5 content-range content-type date
    etag expect expires from host if-match if-modified-since if-none-match if-range
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url
    public set-cookie keep-alive origin
"""
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = (word.replace("_", " ").encode() for word in _WORDS.split())
    return b"".join(len(word).to_bytes(4, "big") + word for word in words) + _TEXT.encode()


DICTIONARY: Final = _dictionary()


class FrameError(ValueError):
    """Bytes that are no frame, or one beyond a limit; the connection cannot go on."""


def control(type_: Type, payload: bytes) -> bytes:
    """Return a control frame."""
    return FRAME_HEADER.pack(CONTROL | VERSION, type_, len(payload)) + payload


def data_header(stream: int, length: int, *, fin: bool = False) -> bytes:
    """Return what precedes ``length`` bytes of a stream."""
    return DATA_HEADER.pack(stream, (FLAG_FIN if fin else 0) << 24 | length)


class HeaderWriter:
    """Compresses header blocks; one for each direction of a connection, used in order."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(zdict=DICTIONARY)

    def encode(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the block; names become lower case, values of one name are joined by NUL."""
        joined: dict[str, list[str]] = {}
        for name, value in headers:
            joined.setdefault(name.lower(), []).append(value)
        parts = [len(joined).to_bytes(4, "big")]
        for name, values in joined.items():
            for text in (name, "\0".join(values)):
                raw = text.encode()
                parts += [len(raw).to_bytes(4, "big"), raw]
        return self._zlib.compress(b"".join(parts)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderReader:
    """Expands header blocks; one for each direction of a connection, used in order.

    Args:
        max_bytes: of an expanded block.
    """

    def __init__(self, max_bytes: int) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)
        self._max_bytes = max_bytes

    def decode(self, block: bytes) -> Headers:
        """Return (name, value) pairs.

        Raises:
            FrameError: it is no header block, or larger than the limit.
        """
        try:
            raw = self._zlib.decompress(block, self._max_bytes + 1)
        except zlib.error as error:
            raise FrameError(f"a header block cannot be expanded: {error}") from None
        if len(raw) > self._max_bytes or self._zlib.unconsumed_tail:
            raise FrameError(f"a header block is larger than {self._max_bytes} bytes")
        return tuple(_pairs(raw))


def _pairs(raw: bytes) -> Iterable[tuple[str, str]]:
    count, at = _number(raw, 0)
    for _ in range(count):
        name, at = _text(raw, at)
        values, at = _text(raw, at)
        for value in values.split("\0"):
            yield name, value
    if at != len(raw):
        raise FrameError("a header block has bytes after its last header")


def _number(raw: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(raw):
        raise FrameError("a header block ends in the middle")
    return int.from_bytes(raw[at : at + 4], "big"), at + 4


def _text(raw: bytes, at: int) -> tuple[str, int]:
    length, at = _number(raw, at)
    if at + length > len(raw):
        raise FrameError("a header block ends in the middle")
    try:
        return raw[at : at + length].decode(), at + length
    except UnicodeDecodeError:
        raise FrameError("a header is not UTF-8") from None
