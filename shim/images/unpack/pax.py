"""The decimal and key-value parts of tar: extended headers and maps of sparse files. Pure.

Source: POSIX.1-2001 pax interchange format; GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from typing import Final

from shim.errors import InvalidArgument

XATTR_PREFIX: Final = b"SCHILY.xattr."

Segments = list[tuple[int, int]]
"""(offset, length) of each part of a sparse file that has data, both in bytes, in the archive's order."""


def parse_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the (key, value) pairs of an extended header, in order; a key may come twice (GNU.sparse)."""
    records: list[tuple[bytes, bytes]] = []
    pos = 0
    while pos < len(data):
        blank = data.find(b" ", pos, pos + 20)
        digits = data[pos:blank]
        if blank < 0 or not digits.isdigit():
            raise InvalidArgument("malformed layer: an extended header has no length")
        end = pos + int(digits)
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= blank + 1 or data[end - 1] != 0x0A or not equals or not key:
            raise InvalidArgument("malformed layer: an extended header's record does not end where it says")
        records.append((key, value))
        pos = end
    return records


def parse_int(text: bytes, what: str) -> int:
    """Return a decimal number of an extended header."""
    body = text[1:] if text.startswith(b"-") else text
    if not body.isdigit() or len(body) > 20:
        raise InvalidArgument(f"malformed layer: {what} is not a number")
    return int(text)


def parse_time_ns(text: bytes) -> int:
    """Return nanoseconds of a pax time such as ``1350244992.023960108`` or ``-1.5``."""
    seconds, _, fraction = text.partition(b".")
    negative = seconds.startswith(b"-")
    digits = (fraction + b"000000000")[:9]
    if not digits.isdigit():
        raise InvalidArgument("malformed layer: a time is not a number")
    whole = parse_int(b"0" if seconds in (b"", b"-") else seconds, "a time")
    return whole * 1_000_000_000 + (-int(digits) if negative else int(digits))


def parse_sparse_pax(records: list[tuple[bytes, bytes]]) -> Segments | None:
    """Return the map of a sparse file in GNU's pax formats 0.0 and 0.1; None where there is none."""
    offsets = [value for key, value in records if key == b"GNU.sparse.offset"]
    lengths = [value for key, value in records if key == b"GNU.sparse.numbytes"]
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = value.split(b",") if value else []
            offsets, lengths = numbers[0::2], numbers[1::2]
    if not offsets and not lengths:
        return None
    if len(offsets) != len(lengths):
        raise InvalidArgument("malformed layer: the map of a sparse file is incomplete")
    return [
        (parse_int(offset, "a sparse offset"), parse_int(length, "a sparse length"))
        for offset, length in zip(offsets, lengths, strict=True)
    ]


def parse_sparse_1_0(data: bytes) -> Segments | None:
    """Return the map at the head of a format 1.0 sparse file; None while ``data`` is not all of it."""
    end = data.find(b"\n")
    if end < 0:
        return None
    count = parse_int(data[:end], "a sparse count")
    if count < 0 or count > 1 << 20:
        raise InvalidArgument("malformed layer: a sparse file has too many parts")
    if data.count(b"\n") < 2 * count + 1:  # it comes in blocks: the lines are taken apart once
        return None
    numbers = [parse_int(line, "a sparse map") for line in data.split(b"\n")[1 : 2 * count + 1]]
    return list(zip(numbers[0::2], numbers[1::2], strict=True))


def check_segments(segments: Segments, stored: int, size: int) -> None:
    """Refuse a map that does not fit the archive's data or the file.

    Args:
        segments: the map.
        stored: bytes of data in the archive.
        size: length of the file when unpacked.
    """
    end = total = 0
    for offset, length in segments:
        if offset < end or length < 0 or offset + length > size:
            raise InvalidArgument("malformed layer: the map of a sparse file contradicts its size")
        end = offset + length
        total += length
    if total != stored:
        raise InvalidArgument("malformed layer: the map of a sparse file contradicts the data stored")
