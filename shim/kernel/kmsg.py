"""The kernel's log, followed from now on (Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import os
from typing import Final

_PATH: Final = "/dev/kmsg"
_RECORD_BYTES: Final = 8192  # PRINTKRB_RECORD_MAX and more; a shorter buffer is EINVAL
_MOST: Final = 256


def follow() -> int:
    """Return a descriptor that becomes readable with each record from now on.

    Raises:
        OSError: there is no log here, or it may not be read.
    """
    fd = os.open(_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> list[str]:
    """Return the texts of the records that are there now, at most 256; never waits.

    What the kernel has overwritten meanwhile is skipped.
    """
    texts = []
    for _ in range(_MOST):
        try:
            record = os.read(fd, _RECORD_BYTES)
        except BlockingIOError:
            break
        except BrokenPipeError:  # the next record is gone: the following read goes on behind the gap
            continue
        if not record:
            break
        texts.append(record.partition(b";")[2].partition(b"\n")[0].decode("utf-8", "replace"))
    return texts
