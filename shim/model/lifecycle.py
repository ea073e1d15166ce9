"""States and the events that change them, as tables.

container:  CREATED --start--> RUNNING --exit--> EXITED --remove--> (gone)
CREATED --start_failed--> EXITED        CREATED --remove--> (gone)
CREATED --exit--> EXITED (found dead at a restart)
sandbox:    (making) --ready--> READY --stop--> NOTREADY --remove--> (gone)
(making) --stop--> NOTREADY
"""

from __future__ import annotations

from typing import Final

from shim.errors import StateError
from shim.model.container import ContainerState, ContainerStatus
from shim.model.sandbox import SandboxState, SandboxStatus

GONE: Final = None

CONTAINER_EVENTS: Final[dict[tuple[ContainerState, str], ContainerState | None]] = {
    (ContainerState.CREATED, "start"): ContainerState.RUNNING,
    (ContainerState.CREATED, "start_failed"): ContainerState.EXITED,
    (ContainerState.CREATED, "exit"): ContainerState.EXITED,
    (ContainerState.CREATED, "remove"): GONE,
    (ContainerState.RUNNING, "exit"): ContainerState.EXITED,
    (ContainerState.EXITED, "remove"): GONE,
    (ContainerState.UNKNOWN, "exit"): ContainerState.EXITED,
    (ContainerState.UNKNOWN, "remove"): GONE,
}


def container_state(status: ContainerStatus) -> ContainerState:
    """Derive the state from the timestamps."""
    if status.finished_at_ns:
        return ContainerState.EXITED
    if status.unknown:
        return ContainerState.UNKNOWN
    return ContainerState.RUNNING if status.started_at_ns else ContainerState.CREATED


def sandbox_state(status: SandboxStatus) -> SandboxState:
    """Derive the state from the timestamps."""
    return SandboxState.READY if status.ready_at_ns and not status.stopped_at_ns else SandboxState.NOTREADY


def next_container_state(id_: str, state: ContainerState, event: str) -> ContainerState | None:
    """Return the state after ``event``; None once it is gone.

    Raises:
        StateError: the state does not accept the event; the text is a sentence for the caller.
    """
    try:
        return CONTAINER_EVENTS[state, event]
    except KeyError:
        raise StateError(f"cannot {event} container {id_!r}: it is {state.name}") from None
