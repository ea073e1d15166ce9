"""Waiting for a disk that may never answer: work that makes no progress for a while is given up.

A process or thread inside the kernel, in a disk that hangs, can be neither stopped nor waited for. So the
waiting is given up, not the work: whoever began it says what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from shim.errors import DeadlineExceeded

_LOOKS: Final = 10  # in the time that makes a stall
_MAX_TICK_S: Final = 1.0


class Stalled(DeadlineExceeded):
    """Nothing was read or written for too long."""


async def wait(work: asyncio.Future[Any], progress: Callable[[], object], hang_s: float, what: str) -> None:
    """Return when ``work`` is done, whatever its outcome; it is not cancelled if the caller is.

    Times are counted in looks, not read from a clock: that this process stood still is nobody's stall.

    Args:
        work: what is waited for.
        progress: returns something that changes while the work goes on; None where that cannot be told now.
        hang_s: how long it may stay the same.
        what: of what cannot be done, for the message.

    Raises:
        Stalled: nothing changed for so long.
    """
    tick_s = min(_MAX_TICK_S, hang_s / _LOOKS)
    last, quiet_s = progress(), 0.0
    while not work.done():
        await asyncio.wait({work}, timeout=tick_s)
        now = progress()
        quiet_s = quiet_s + tick_s if now == last and now is not None else 0.0
        last = now
        if quiet_s >= hang_s and not work.done():
            raise Stalled(
                f"cannot {what}: nothing was read or written for {hang_s:g} s;"
                " look for a disk or file system that hangs, then try again"
            )
