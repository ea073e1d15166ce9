"""One daemon for each root."""

from __future__ import annotations

import fcntl
import os

from shim.errors import FailedPrecondition


def hold(path: str) -> int:
    """Lock a file for the life of the returned descriptor; a crash lets go of it by itself.

    Raises:
        FailedPrecondition: another daemon holds it; the sentence names its pid.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise FailedPrecondition(f"another daemon (pid {owner}) uses {os.path.dirname(path)}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
