"""Descriptors that do not block, awaited in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
from typing import Final

from shim.streaming.wire import CHUNK

_PIPE_BYTES: Final = 1024 * 1024
_ENDS: Final = (errno.EIO, errno.EPIPE, errno.EBADF)  # EIO: nobody has the terminal open any more


def enlarge(fd: int) -> None:
    """Let a pipe hold more, so that fewer turns move more; no matter if it is none."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def has_input(fd: int) -> bool:
    """Tell whether something can be read just now, be it the end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


async def read(fd: int) -> bytes:
    """Return what there is to be read, waiting for it; empty at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(fd, _set, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
        except OSError as error:
            if error.errno in _ENDS:
                return b""
            raise


async def write(fd: int, data: bytes) -> bool:
    """Write all; return False if nobody reads it any more."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_writer(fd, _set, ready)
            try:
                await ready
            finally:
                loop.remove_writer(fd)
        except OSError as error:
            if error.errno in _ENDS:
                return False
            raise
    return True


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
