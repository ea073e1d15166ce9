"""Attributes of netlink messages, as bytes: length, type, value, padded to four bytes (netlink(7)). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_NESTED: Final = 0x8000
_TYPE: Final = 0x3FFF  # without the flags for nested and big-endian
_HEADER: Final = struct.Struct("=HH")


def attribute(kind: int, data: bytes) -> bytes:
    """Return an attribute."""
    length = _HEADER.size + len(data)
    return _HEADER.pack(length, kind) + data + bytes(-length % 4)


def be32(kind: int, value: int) -> bytes:
    """Return a number of 32 bits, big-endian as netfilter has it."""
    return attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def native32(kind: int, value: int) -> bytes:
    """Return a number of 32 bits as the machine has it, for links, addresses and routes."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Return a text with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def parse(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of each attribute; a truncated rest is dropped."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield kind & _TYPE, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
