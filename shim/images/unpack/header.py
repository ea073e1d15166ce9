"""The fields of a tar header block. Pure.

Source: POSIX.1-2001 ustar; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from shim.errors import InvalidArgument
from shim.images.unpack import pax


def gnu_segments(block: bytes, start: int, count: int, into: pax.Segments) -> None:
    """Add at most ``count`` parts of an old GNU sparse map that begins at ``start``."""
    for at in range(start, start + count * 24, 24):
        if block[at] == 0:
            return
        into.append((number(block, at, 12), number(block, at + 12, 12)))


def text(block: bytes, at: int, length: int) -> bytes:
    """Return a field up to its first NUL."""
    end = block.find(0, at, at + length)
    return block[at : at + length if end < 0 else end]


def number(block: bytes, at: int, length: int) -> int:
    """Return an octal or, where its first bit is set, a base-256 two's complement number."""
    if block[at] & 0x80:
        value = int.from_bytes(block[at : at + length], "big")
        bits = 8 * length
        value &= (1 << (bits - 1)) - 1
        return value - (1 << (bits - 1)) if block[at] & 0x40 else value
    digits = block[at : at + length].strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise InvalidArgument("malformed layer: a number in a tar header is not octal") from None


def check_sum(block: bytes) -> None:
    """Refuse a block whose checksum is wrong: it is no header."""
    want = number(block, 148, 8)
    rest = block[:148] + b"        " + block[156:]
    if sum(rest) == want:
        return
    if sum(byte - 256 if byte > 127 else byte for byte in rest) != want:  # old Sun and NeXT archivers
        raise InvalidArgument("malformed layer: this is no tar archive (the checksum of a header is wrong)")
