"""What an exit does: the status goes to disk and memory, then whoever waits is woken.

The supervisor tells of each exit once it is on tmpfs. A container's status is written before anybody is
woken, so that what a woken caller asks next is true already; then the supervisor may forget the process.
Before its end is told its last words are in its log, where a kubelet looks for them
(terminationMessagePolicy: FallbackToLogsOnError). For an exec the waiting call is all there is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Final

from shim.errors import ShimError
from shim.model.container import ContainerStatus, ExitRecord
from shim.model.timeline import Entry
from shim.services import exit_causes
from shim.services.exit_reasons import UNKNOWN_EXIT_CODE, exit_reason
from shim.services.node import Node
from shim.services.sandboxes.teardown import mark_stopped
from shim.services.timeline import container_keys

log = logging.getLogger(__name__)

LOG_S: Final = 10.0  # how long an end waits for the log: its disk may hang


def on_exit(node: Node, record: ExitRecord) -> None:
    """Take in an exit. Called in the event loop, as often as the supervisor tells of it: idempotent."""
    if node.records.is_known(record.id):
        node.background.start(f"exit of {record.id}", _just_ended(node, record))
        return
    node.waiters.tell(record)
    node.background.start(f"forget {record.id}", node.supervisor.forget(record.id))


async def _just_ended(node: Node, record: ExitRecord) -> None:
    if node.records.has_container(record.id):
        await _log_written(node, record.id)
    await take_in(node, record)


async def take_in(node: Node, record: ExitRecord) -> None:
    """Write an exit into the status of the container or sandbox, wake who waits, and forget the process."""
    if node.records.has_container(record.id):
        await _container_ended(node, record)
    else:
        await _init_ended(node, record)
    node.waiters.tell(record)
    await node.supervisor.forget(record.id)


def ended(status: ContainerStatus, record: ExitRecord) -> ContainerStatus:
    """Return the status after an exit; the first record that is taken in counts."""
    if status.finished_at_ns:
        return status
    exit_code = record.exit_code if record.source != "unknown" else UNKNOWN_EXIT_CODE
    return dataclasses.replace(
        status,
        finished_at_ns=max(record.finished_at_ns, status.started_at_ns, 1),
        exit_code=exit_code,
        reason=exit_reason(record),
        unknown=False,
    )


def _tell(node: Node, status: ContainerStatus, record: ExitRecord) -> None:
    """Add the end to the timeline, with its cause as far as it is known."""
    view = node.records.find_container(record.id)
    if view is None:
        return
    stopping = node.stops.get(record.id)
    cause = exit_causes.Cause(
        asked=bool(status.stop_requested_ns) or stopping is not None,
        killed=stopping is not None and stopping[0].killed,
        grace_s=stopping[0].timeout_s if stopping is not None else 0,
        stop_signal=view.spec.stop_signal,
        memory_limit_bytes=status.resources.memory_limit_bytes,
        seccomp=view.spec.confinement.seccomp.name if view.spec.confinement is not None else "",
    )
    keys = tuple(container_keys(node, record.id))
    at_ns = record.finished_at_ns or node.now_ns()
    ok = exit_causes.is_expected(record, cause)
    node.timeline.add(Entry(at_ns, "exit", keys, exit_causes.describe(record, cause), ok=ok))


async def _log_written(node: Node, id_: str) -> None:
    """Return when what a container has written is in its log, or it has taken too long."""
    try:
        async with asyncio.timeout(LOG_S):
            await node.supervisor.drain_log(id_)
    except (ShimError, TimeoutError) as error:
        log.debug("container %s: its end is told before its log is complete: %s", id_, error)


async def _container_ended(node: Node, record: ExitRecord) -> None:
    status = await node.records.update_container(record.id, lambda status: ended(status, record))
    if status is not None:
        _tell(node, status, record)
        log.info("container %s ended: exit code %d, %s", record.id, status.exit_code, status.reason)


async def _init_ended(node: Node, record: ExitRecord) -> None:
    """A pod whose PID namespace has lost its init cannot run anything any more."""
    node.inits.discard(record.id)
    view = node.records.find_sandbox(record.id)
    if view is not None and view.status.ready_at_ns and not view.status.stopped_at_ns:
        log.warning("the init of sandbox %s ended: it is not ready any more", record.id)
        await node.records.update_sandbox(record.id, lambda status: mark_stopped(status, node.now_ns()))
