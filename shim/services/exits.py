"""Who waits for the end of a process, and who is told first.

The supervisor tells of each exit (`on_exit`). For a container the status is brought to disk and memory
before anybody who waits is woken, so that what a caller asks next is already true. For an exec the
waiting call is all there is.
"""

from __future__ import annotations

import asyncio

from shim.model.container import ExitRecord

OOM_KILLED = "OOMKilled"
COMPLETED = "Completed"
ERROR = "Error"
UNKNOWN = "Unknown"
START_ERROR = "StartError"

_SIGKILL = 9
UNKNOWN_EXIT_CODE = 255
START_ERROR_EXIT_CODE = 128


def exit_reason(record: ExitRecord) -> str:
    """Return the reason the kubelet shows for an exit.

    ``OOMKilled`` only for a process that died of SIGKILL in a cgroup where the kernel's OOM killer struck: a
    child that was killed for memory while the container went on to end well is not an OOM of the container.
    """
    if record.source == "unknown":
        return UNKNOWN
    if record.signal == _SIGKILL and record.oom_kills > 0:
        return OOM_KILLED
    return COMPLETED if record.exit_code == 0 else ERROR


class Waiters:
    """Futures by process id (container, init or exec), each fulfilled once, with the record of the exit."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[ExitRecord]] = {}

    def expect(self, id_: str) -> asyncio.Future[ExitRecord]:
        """Return the future of an exit. Call it before the process is started, or an early end is missed."""
        future = self._futures.get(id_)
        if future is None:
            future = self._futures[id_] = asyncio.get_running_loop().create_future()
        return future

    def is_expected(self, id_: str) -> bool:
        """Tell whether somebody waits for this exit."""
        return id_ in self._futures

    def tell(self, record: ExitRecord) -> None:
        """Wake who waits for this exit."""
        future = self._futures.pop(record.id, None)
        if future is not None and not future.done():
            future.set_result(record)

    def drop(self, id_: str) -> None:
        """Nobody waits any more: the process was never started, or its waiter has left."""
        future = self._futures.pop(id_, None)
        if future is not None:
            future.cancel()

    def __len__(self) -> int:
        return len(self._futures)
