"""What has happened to containers and sandboxes, for whoever listens (GetContainerEvents).

``records`` is where every status changes, in one thread; it asks here which events a change means, and hands
them to the event loop in the order of the changes. Who listens has a queue of its own: one that is slow loses
its place once it is too far behind, and delays nobody. An event is sent after what it tells of is in the
lists.

For a minute after the daemon is there, whoever begins to listen is also told what has happened since it was
started, ends that it found among it: those are for clients that the daemon before has lost.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from shim.errors import ResourceExhausted, Unavailable
from shim.model.container import ContainerStatus
from shim.model.sandbox import SandboxStatus
from shim.services.exit_reasons import START_ERROR
from shim.services.views import ContainerView, SandboxView

MAX_BEHIND: Final = 4096
REPLAY_S: Final = 60.0


class EventType(enum.IntEnum):
    """As in the CRI; for sandboxes too."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class Event:
    """One event, with the states after it.

    Attributes:
        id: of the container, or of the sandbox for its own events.
        created_at_ns: when it was noted; no two events of a daemon have the same.
        sandbox: the pod, also when it is just gone.
        containers: all in the pod.
    """

    id: str
    type: EventType
    created_at_ns: int
    sandbox: SandboxView
    containers: tuple[ContainerView, ...]


def of_container(before: ContainerStatus, after: ContainerStatus) -> tuple[EventType, ...]:
    """Return what a change of a status means. Pure.

    The end of a process may be noted before the end of its start is: it is told with that, in order.
    """
    found = []
    if after.started_at_ns and not before.started_at_ns:
        found.append(EventType.STARTED)
    if _has_stopped(after) and not _has_stopped(before):
        found.append(EventType.STOPPED)
    return tuple(found)


def _has_stopped(status: ContainerStatus) -> bool:
    return bool(status.finished_at_ns and (status.started_at_ns or status.reason == START_ERROR))


def of_sandbox(before: SandboxStatus, after: SandboxStatus) -> tuple[EventType, ...]:
    """Return what a change of a status means. Pure. One that never was ready has no events."""
    found: tuple[EventType, ...] = ()
    if after.ready_at_ns and not before.ready_at_ns:
        found = (EventType.CREATED, EventType.STARTED)
    if after.ready_at_ns and after.stopped_at_ns and not before.stopped_at_ns:
        found = (*found, EventType.STOPPED)
    return found


class Subscription:
    """The events for one client, in order.

    Args:
        waiting: what it is told first.
        limit: how far it may be behind.
        leave: called when it is closed.
    """

    def __init__(self, waiting: list[Event], limit: int, leave: Callable[[Subscription], None]) -> None:
        self._waiting = deque(waiting)
        self._limit = limit
        self._leave = leave
        self._wake = asyncio.Event()
        self._lost = False
        self._ended = False

    def put(self, event: Event) -> bool:
        """Add an event; return False once the client is too far behind: it gets no more."""
        if len(self._waiting) >= self._limit:
            self._lost = True
            self._waiting.clear()
        else:
            self._waiting.append(event)
        self._wake.set()
        return not self._lost

    def end(self) -> None:
        """Let the client go when it has got what waits."""
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        """The client has left. Idempotent."""
        self._leave(self)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events as they come.

        Raises:
            ResourceExhausted: the client was too slow. Unavailable: the daemon stops.
        """
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._lost:
                raise ResourceExhausted(
                    f"this client is more than {self._limit} events behind and is told no more: "
                    "list what there is, then ask for events again"
                )
            if self._ended:
                raise Unavailable("the daemon stops: ask for events again, and list what there is")
            self._wake.clear()
            await self._wake.wait()


class Events:
    """Who listens, and what they are told. For the event loop, but for ``stamp`` and ``wanted``.

    Attributes:
        cut_off: how many clients were too slow.
    """

    def __init__(self, limit: int = MAX_BEHIND, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._listeners: set[Subscription] = set()
        self._since_start: list[Event] | None = []
        self._forget_at: float | None = None
        self._last_ns = 0
        self._ended = False
        self.cut_off = 0

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def wanted(self) -> bool:
        """Tell whether anybody is told, or can be later, of what has just happened. For any thread.

        Who begins to listen after this was false finds what has happened in the lists.
        """
        return bool(self._listeners) or self._recent() is not None

    def stamp(self) -> int:
        """Return the time, later than at every call before. For one thread at a time."""
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return self._last_ns

    def now_ns(self) -> int:
        """Return the time, no earlier than that of any event so far."""
        return max(self._last_ns, time.time_ns())

    def publish(self, event: Event) -> None:
        """Tell everybody; who is too far behind is let go."""
        kept = self._recent()
        if kept is not None:
            kept.append(event)
        for listener in list(self._listeners):
            if not listener.put(event):
                self.cut_off += 1
                self._listeners.discard(listener)

    def opened(self) -> None:
        """Clients can come from now on: what has happened is kept for another minute."""
        self._forget_at = self._clock() + REPLAY_S

    def subscribe(self) -> Subscription:
        """Return what a new client is told, until it closes it."""
        listener = Subscription(list(self._recent() or ()), self._limit, self._listeners.discard)
        if self._ended:
            listener.end()
        else:
            self._listeners.add(listener)
        return listener

    def close(self) -> None:
        """Let all clients go, with what waits for them."""
        self._ended = True
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()

    def _recent(self) -> list[Event] | None:
        over = self._forget_at is not None and self._clock() >= self._forget_at
        if over or (self._since_start is not None and len(self._since_start) >= self._limit):
            self._since_start = None
        return self._since_start
