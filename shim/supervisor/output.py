"""What one container writes: from its pipes or terminal to attached clients, and line by line into its log.

The beginning of a line whose end has not come is noted in the container's ``carry`` memory file, for the
next logger. It is noted before the finished lines are written: killed in between, a logger loses the one
chunk that it had read, and nothing is ever written twice.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from typing import Final

from shim.supervisor.fanout import Client, Fanout
from shim.supervisor.logfile import LogFile
from shim.supervisor.logformat import Formatter
from shim.supervisor.loop import READABLE, Loop
from shim.supervisor.protocol import LogConfig

CHUNK: Final = 64 * 1024
_DRAIN_CHUNKS: Final = 256  # 16 MiB: a drain ends, however fast the container writes
_LENGTH: Final = struct.Struct("=I")
_STREAMS: Final = (("stdout_read", "stdout"), ("stderr_read", "stderr"))


class _Stream:
    """One descriptor that is read; it belongs to the store."""

    __slots__ = ("_carry_at", "_carry_fd", "_noted", "clients", "fd", "formatter", "name")

    def __init__(
        self, fd: int, name: str, clients: Fanout, max_line: int, carry_fd: int | None, slot: int
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.name = name
        self.clients = clients
        self._carry_fd = carry_fd
        self._carry_at = slot * (_LENGTH.size + max_line)
        carry = self._load(max_line)
        self.formatter = Formatter(name, max_line, carry)
        self._noted = bool(carry)

    def _load(self, max_line: int) -> bytes:
        if self._carry_fd is None:
            return b""
        header = os.pread(self._carry_fd, _LENGTH.size, self._carry_at)
        if len(header) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack(header)
        return os.pread(self._carry_fd, min(length, max_line), self._carry_at + _LENGTH.size)

    def note(self) -> None:
        """Write down what is carried, if that or what was noted is not empty."""
        carry = self.formatter.carry
        if self._carry_fd is not None and (carry or self._noted):
            os.pwrite(self._carry_fd, _LENGTH.pack(len(carry)) + carry, self._carry_at)
            self._noted = bool(carry)


class Output:
    """The streams and the log file of one container.

    Args:
        loop: watches the streams.
        config: where the lines go.
        fds: of the container, by name; they belong to the store that outlives this.
    """

    def __init__(self, loop: Loop, config: LogConfig, fds: Mapping[str, int]) -> None:
        self._loop = loop
        self.file = LogFile(config.path)
        names = (("tty", "stdout"),) if config.tty else _STREAMS
        self._streams: list[_Stream] = []
        for slot, (name, stream) in enumerate(names):
            if name in fds:
                clients = Fanout(loop)
                self._begin(_Stream(fds[name], stream, clients, config.max_line, fds.get("carry"), slot))

    @property
    def ended(self) -> bool:
        """Whether nobody can write any more."""
        return not self._streams

    def attach(self, sockets: Mapping[str, int]) -> None:
        """Copy streams to the sockets of one client, by name, which are closed here.

        A stream that has ended ends at once; where the client is cut off, it is so from both.
        """
        ends: list[Client] = []

        def cut() -> None:
            for end in ends:
                end.close()

        for name, fd in sockets.items():
            stream = next((stream for stream in self._streams if stream.name == name), None)
            if stream is None:
                os.close(fd)
            else:
                ends.append(stream.clients.add(fd, cut))

    def drain(self) -> None:
        """Take what the pipes hold now."""
        for stream in list(self._streams):
            for _ in range(_DRAIN_CHUNKS):
                if not self._read(stream):
                    break

    def close(self) -> None:
        """Stop reading, and close the file."""
        for stream in self._streams:
            self._loop.unwatch(stream.fd)
            stream.clients.finish()
        self._streams.clear()
        self.file.close()

    def _begin(self, stream: _Stream) -> None:
        self._streams.append(stream)
        self._watch(stream)

    def _watch(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._loop.watch(stream.fd, READABLE, lambda _: self._ready(stream))

    def _ready(self, stream: _Stream) -> None:
        if self._read(stream) and (pause_s := stream.clients.pause_s):
            self._loop.unwatch(stream.fd)
            self._loop.later(f"output {stream.fd}", pause_s, lambda: self._watch(stream))

    def _read(self, stream: _Stream) -> bool:
        """Take one chunk; return whether there may be more now."""
        try:
            chunk = os.read(stream.fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the terminal open any more
            chunk = b""
        if chunk:
            stream.clients.feed(chunk)
        now_ns = time.time_ns()
        lines = stream.formatter.feed(chunk, now_ns) if chunk else stream.formatter.finish(now_ns)
        stream.note()
        self.file.append(lines)
        if not chunk:
            self._loop.unwatch(stream.fd)
            stream.clients.finish()
            self._streams.remove(stream)
        return bool(chunk)
