"""Terminals."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

_TIOCGPTPEER: Final = 0x5441
_TIOCSPTLCK: Final = 0x40045431


def open_pty(devpts_fd: int) -> tuple[int, int]:
    """Return (master, slave) of a new terminal of one devpts mount.

    The slave is opened through the master (TIOCGPTPEER), never by a path that a container could exchange.

    Args:
        devpts_fd: directory descriptor of the devpts mount.
    """
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts_fd)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def set_winsize(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def set_controlling(fd: int) -> None:
    """Make a terminal the controlling one of this session; the caller is the session's leader."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
