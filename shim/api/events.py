"""GetContainerEvents: one stream for each client, until it leaves or falls behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from shim._proto import api_pb2 as cri
from shim.api import wire
from shim.api.statuses import Statuses
from shim.services.events import Event
from shim.services.node import Node

_ID: Final = 1  # fields of ContainerEventResponse
_TYPE: Final = 2
_CREATED_AT: Final = 3
_SANDBOX: Final = 4
_CONTAINERS: Final = 5
_LATEST: Final = 16


class EventStreams:
    """The method of RuntimeService that tells of events."""

    def __init__(self, node: Node, statuses: Statuses) -> None:
        self._events = node.records.events
        self._statuses = statuses
        self._latest: dict[int, bytes] = {}  # by time: those that all clients but the slow are told next

    async def get_container_events(
        self, _request: cri.GetEventsRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """Tell of events as they come. The client is listened for once it gets the initial metadata."""
        subscription = self._events.subscribe()
        try:
            await context.send_initial_metadata(())
            async for event in subscription.events():
                yield self._encoded(event)
        finally:
            subscription.close()

    def _encoded(self, event: Event) -> bytes:
        known = self._latest.get(event.created_at_ns)
        if known is None:
            known = self._latest[event.created_at_ns] = self._encode(event)
            if len(self._latest) > _LATEST:
                del self._latest[next(iter(self._latest))]
        return known

    def _encode(self, event: Event) -> bytes:
        containers = self._statuses.containers(event.containers)
        parts = [
            wire.text(_ID, event.id),
            wire.number(_TYPE, event.type),
            wire.number(_CREATED_AT, event.created_at_ns),
            wire.data(_SANDBOX, self._statuses.sandbox(event.sandbox)),
            *(wire.data(_CONTAINERS, each) for each in containers),
        ]
        return b"".join(parts)
