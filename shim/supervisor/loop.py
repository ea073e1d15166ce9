"""One thread, one epoll: descriptors and what to do when they are ready, and work for later."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
URGENT: Final = select.EPOLLPRI
ONCE: Final = select.EPOLLET  # told of each change once, not for as long as it is so

Handler = Callable[[int], None]


class Loop:
    """Watches descriptors that others own."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._later: dict[str, tuple[float, Callable[[], None]]] = {}

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler`` with the events whenever there are some; replaces an earlier handler."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed. Idempotent."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, name: str, delay_s: float, work: Callable[[], None]) -> None:
        """Call ``work`` once after ``delay_s``; a second call with the same name replaces the first."""
        self._later[name] = (time.monotonic() + delay_s, work)

    def turn(self, timeout_s: float | None = None) -> None:
        """Wait for something to do and do it. A handler may unwatch any descriptor, also its own."""
        due = min((at for at, _ in self._later.values()), default=None)
        if due is not None:
            left = max(due - time.monotonic(), 0)
            timeout_s = left if timeout_s is None else min(timeout_s, left)
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        now = time.monotonic()
        for name in [name for name, (at, _) in self._later.items() if at <= now]:
            self._later.pop(name)[1]()

    def fileno(self) -> int:
        """Return the descriptor of the epoll itself."""
        return self._epoll.fileno()


def close(loop: Loop, fd: int) -> None:
    """Stop watching a descriptor and close it."""
    loop.unwatch(fd)
    os.close(fd)
