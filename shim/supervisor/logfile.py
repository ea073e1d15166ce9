"""The CRI log file of one container: appended to, reopened as a whole, never waited for when it fails.

A full or broken disk stops the log, not the container: what cannot be written is dropped and counted, and
the next chunk is tried again. A line that was cut (by a full disk, or by the death of an earlier logger) is
ended before the next one begins, so that no two lines run together.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Final

from shim.errors import KernelError

log = logging.getLogger(__name__)

LOG_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
LOG_MODE: Final = 0o640


class LogFile:
    """A log file, or nothing where ``path`` is empty.

    Attributes:
        dropped_bytes: what could not be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._cut = False
        self.dropped_bytes = 0
        if path:
            try:
                self.reopen()
            except OSError as error:
                log.warning("cannot open the log %s, output is dropped: %s", path, error)

    def reopen(self) -> None:
        """Open the file at the path, made if it is missing, in place of the one that is open.

        Raises:
            KernelError: it cannot be; the one that is open stays in use.
        """
        if not self._path:
            return
        try:
            fd = self._open()
        except OSError as error:
            raise KernelError("open", error.errno or errno.EIO, self._path) from error
        self.close()
        self._fd = fd
        size = os.fstat(fd).st_size
        self._cut = bool(size) and os.pread(fd, 1, size - 1) != b"\n"

    def append(self, lines: bytes) -> None:
        """Write whole lines; what cannot be written is dropped."""
        if not self._path or not lines:
            return
        if self._fd < 0:
            self.dropped_bytes += len(lines)
            return
        data = b"\n" + lines if self._cut else lines
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:])
        except OSError as error:
            if not self.dropped_bytes:
                log.warning("cannot write the log %s, output is dropped: %s", self._path, error)
            self.dropped_bytes += len(data) - done
        if done:
            self._cut = data[done - 1] != 10

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        try:
            fd = os.open(self._path, LOG_FLAGS, LOG_MODE)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
            fd = os.open(self._path, LOG_FLAGS, LOG_MODE)
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISCHR(kind):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a file")
        return fd
