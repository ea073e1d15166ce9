"""Terminals."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

from shim.errors import FailedPrecondition
from shim.kernel import files

_DEVPTS_MAGIC: Final = 0x1CD1  # DEVPTS_SUPER_MAGIC of linux/magic.h
_TIOCGPTPEER: Final = 0x5441
_TIOCSPTLCK: Final = 0x40045431


def open_pty(devpts_fd: int) -> tuple[int, int]:
    """Return (master, slave) of a new terminal of one devpts mount.

    The slave is opened through the master (TIOCGPTPEER), never by a path that a container could exchange; the
    master by a name that only the kernel gives: in anything but a devpts it could be a link to a file of the
    node (CVE-2025-52565).

    Args:
        devpts_fd: directory descriptor of the devpts mount.

    Raises:
        FailedPrecondition: something else is there.
    """
    if files.fstype(devpts_fd) != _DEVPTS_MAGIC:
        raise FailedPrecondition("cannot open a terminal: /dev/pts of the container is no devpts file system")
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
