r"""CRI log lines. Pure: bytes in, bytes out.

A line is ``<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <content>\n``; P marks a piece that goes on
in the next line of that stream, F the last piece (or a whole line).
https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md

This path sees floods. A chunk whose lines are all short is formatted by one ``replace`` in C, without looking
at single lines; only what is longer than the limit is cut in Python.
"""

from __future__ import annotations

import time

_second = -1
_second_text = ""


def timestamp(time_ns: int) -> bytes:
    """Return RFC 3339 with nanoseconds, in UTC."""
    global _second, _second_text
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    if seconds != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = seconds
    return f"{_second_text}.{nanoseconds:09d}Z".encode()


class Formatter:
    """Turns the chunks of one stream into log lines.

    Attributes:
        carry: content of a line whose end has not been seen; at most ``max_line`` bytes.
    """

    __slots__ = ("_full", "_partial", "carry", "max_line")

    def __init__(self, stream: str, max_line: int, carry: bytes = b"") -> None:
        self._full = f" {stream} F ".encode()
        self._partial = f" {stream} P ".encode()
        self.max_line = max_line
        self.carry = carry

    def feed(self, chunk: bytes, time_ns: int) -> bytes:
        """Return the lines that ``chunk`` completes; the rest is carried."""
        data = self.carry + chunk if self.carry else chunk
        end = data.rfind(b"\n")
        if len(data) <= self.max_line and end < 0:
            self.carry = data
            return b""
        stamp = timestamp(time_ns)
        whole = data[:end]
        lines = b""
        if end >= 0:
            full = stamp + self._full
            if _all_short(whole, self.max_line):
                lines = full + whole.replace(b"\n", b"\n" + full) + b"\n"
            else:
                lines = b"".join([self._split(line, stamp, full) for line in whole.split(b"\n")])
        rest = data[end + 1 :]
        if len(rest) > self.max_line:
            pieces, rest = self._cut(rest, stamp)
            lines += pieces
        self.carry = rest
        return lines

    def finish(self, time_ns: int) -> bytes:
        """Return what is carried as a last, partial line; empty if nothing is."""
        rest, self.carry = self.carry, b""
        return timestamp(time_ns) + self._partial + rest + b"\n" if rest else b""

    def _split(self, line: bytes, stamp: bytes, full: bytes) -> bytes:
        pieces, rest = self._cut(line, stamp)
        return pieces + full + rest + b"\n"

    def _cut(self, line: bytes, stamp: bytes) -> tuple[bytes, bytes]:
        """Return (partial lines, rest of at most max_line bytes)."""
        prefix = stamp + self._partial
        starts = range(0, max(len(line) - 1, 0) // self.max_line * self.max_line, self.max_line)
        pieces = b"".join([prefix + line[i : i + self.max_line] + b"\n" for i in starts])
        return pieces, line[len(starts) * self.max_line :]


def _all_short(data: bytes, limit: int) -> bool:
    """Tell whether no line of ``data`` is longer than ``limit``, with one search for each ``limit`` bytes."""
    position, size = 0, len(data)
    while size - position > limit:
        newline = data.rfind(b"\n", position, position + limit + 1)
        if newline < 0:
            return False
        position = newline + 1
    return True
