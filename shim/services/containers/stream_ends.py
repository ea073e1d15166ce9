"""The daemon's ends of the streams of an exec or an attachment."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from shim.errors import FailedPrecondition
from shim.kernel import tty
from shim.services.validate import streams as checks

_CHUNK: Final = 64 * 1024


class StreamEnds:
    """Descriptors that do not block, until they are closed here.

    Attributes:
        stdin, stdout, stderr: None where not asked for, and once closed. With a terminal ``stdin`` and
            ``stdout`` are descriptors of its master of their own.

    Args:
        what: subject of errors.
        stdin: taken over, as all of them.
        terminal: the master, by which the terminal is resized; None without one.
    """

    def __init__(
        self,
        what: str,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        terminal: int | None = None,
    ) -> None:
        self._what = what
        self._terminal = terminal
        self._closed = False
        self._discards = False
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        for fd in (stdin, stdout, stderr, terminal):
            if fd is not None:
                os.set_blocking(fd, False)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters; what runs in its foreground gets SIGWINCH.

        Raises:
            FailedPrecondition: there is no terminal.
            InvalidArgument: the kernel cannot take this size.
        """
        checks.check_size(width, height)
        if self._closed:
            return
        if self._terminal is None:
            raise FailedPrecondition(f"cannot resize {self._what}: it has no terminal")
        tty.set_winsize(self._terminal, height, width)

    def discard_output(self) -> None:
        """Read what comes from the terminal and drop it, for a program whose output nobody asked for."""
        if self._terminal is not None:
            self._discards = True
            asyncio.get_running_loop().add_reader(self._terminal, self._discard, self._terminal)

    def close_input(self) -> None:
        """Close ``stdin``. Idempotent."""
        fd, self.stdin = self.stdin, None
        if fd is not None:
            os.close(fd)

    def close_ends(self) -> None:
        """Close everything. Idempotent."""
        self._closed = True
        self._stop_discarding()
        self.close_input()
        for fd in (self.stdout, self.stderr, self._terminal):
            if fd is not None:
                os.close(fd)
        self.stdout = self.stderr = self._terminal = None

    def _discard(self, fd: int) -> None:
        try:
            if os.read(fd, _CHUNK):
                return
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            pass
        self._stop_discarding()

    def _stop_discarding(self) -> None:
        if self._discards and self._terminal is not None:
            asyncio.get_running_loop().remove_reader(self._terminal)
        self._discards = False
