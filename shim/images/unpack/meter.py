"""How far the unpacking of a layer is, in a page of memory that the worker and the daemon share.

The worker writes without a system call, so it can say it for every entry; the daemon reads without asking
anybody, also when the worker hangs.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final, Self

_FORMAT: Final = struct.Struct("=QQQ")


class Meter:
    """The page.

    Args:
        fd: of the memory, which stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, mmap.PAGESIZE)
        self._moves = 0

    @classmethod
    def make(cls) -> tuple[Self, int]:
        """Return a new one and the descriptor of its memory, which the caller sends on and closes."""
        fd = os.memfd_create("meter", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            return cls(fd), fd
        except BaseException:
            os.close(fd)
            raise

    def move(self) -> None:
        """Say that something was done."""
        self.show(*self.usage())

    def show(self, used_bytes: int, inodes: int) -> None:
        """Say what the layer takes on disk so far, and that something was done."""
        self._moves += 1
        _FORMAT.pack_into(self._page, 0, used_bytes, inodes, self._moves)

    def usage(self) -> tuple[int, int]:
        """Return (bytes, inodes) that were shown last."""
        used_bytes, inodes, _ = _FORMAT.unpack_from(self._page)
        return used_bytes, inodes

    def moves(self) -> int:
        """Return how often something was shown."""
        moves: int = _FORMAT.unpack_from(self._page)[2]
        return moves

    def close(self) -> None:
        """Give the memory back."""
        self._page.close()
