"""Fields of messages as bytes, in protobuf's encoding: for lists that are put together from pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

_LENGTH_DELIMITED: Final = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT: Final = tuple(_varint(value) for value in range(4096))


def varint(value: int) -> bytes:
    """Return a number that is not negative."""
    return _SHORT[value] if value < 4096 else _varint(value)


def number(field: int, value: int) -> bytes:
    """Return a field that holds a number; nothing for 0, as in proto3."""
    return varint(field << 3) + varint(value) if value else b""


def data(field: int, value: bytes) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """Return a field that holds a text, also an empty one: the element of a list."""
    return data(field, value.encode())


def chunks(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield pieces joined to at least ``size`` bytes, but for the last; at least one, which may be empty."""
    waiting: list[bytes] = []
    total = sent = 0
    for piece in pieces:
        waiting.append(piece)
        total += len(piece)
        if total >= size:
            yield b"".join(waiting)
            waiting, total, sent = [], 0, sent + 1
    if waiting or not sent:
        yield b"".join(waiting)
