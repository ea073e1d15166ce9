"""The processes that the supervisor looks after, from their announcement to the moment they are forgotten.

At the end of a process, in this order: wait without reaping, read the count of OOM kills, kill the rest of
its cgroup (a container's or an init's, not an exec's: its children in the background live on), write the
record, reap, tell. Killed anywhere in between, the next supervisor finds either a zombie or the record.

A child of this process is watched by its pidfd as level-triggered and reaped; one taken over from an earlier
supervisor is PID 1's now, so its pidfd would stay readable: it is watched edge-triggered and only read.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from shim.cgroups import killing, oom
from shim.errors import KernelError
from shim.kernel import proc, process
from shim.model.container import ExitRecord
from shim.supervisor import ends, exit_records
from shim.supervisor.fdstore import FdStore
from shim.supervisor.loop import ONCE, READABLE, URGENT, Loop
from shim.supervisor.protocol import CONTAINER, EXEC, INIT, ChildInfo, LogConfig
from shim.supervisor.slice_kills import SliceKills

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
_EVENT_NAMES: Final = ("memory_events", "oom_eventfd")


@dataclass(frozen=True, slots=True)
class Newborn:
    """What is known of a process when it is announced."""

    id: str
    kind: str
    pid: int
    log: LogConfig | None


class Children:
    """A table of processes by id, with their descriptors in a store.

    Args:
        loop: watches pidfds and memory events.
        exits: directory of exit records.
        tell: called with each record, once it is written.
    """

    def __init__(self, loop: Loop, exits: str, tell: Callable[[ExitRecord], None]) -> None:
        self._loop = loop
        self._exits = exits
        self._tell = tell
        self._children: dict[str, ChildInfo] = {}
        self._serials = itertools.count(1)
        self._unwanted: set[str] = set()  # forgotten while they ran: nobody wants to know how they end
        self._unwritten: dict[str, ExitRecord] = {}
        self._slice_kills = SliceKills()
        self.fds = FdStore()

    def __len__(self) -> int:
        return len(self._children)

    def get(self, id_: str) -> ChildInfo | None:
        """Return one child."""
        return self._children.get(id_)

    def after(self, serial: int) -> Iterator[ChildInfo]:
        """Return the children with a higher serial, in order."""
        return (child for child in self._children.values() if child.serial > serial)

    def running(self) -> list[ChildInfo]:
        """Return the children that have not ended."""
        return [child for child in self._children.values() if child.record is None]

    def expect(self, id_: str, fds: Mapping[str, int]) -> None:
        """Count from before a child is born: its memory may not even suffice for that."""
        if "slice_events" in fds:
            self._slice_kills.enter(id_, fds["slice_events"])

    def unexpect(self, id_: str) -> None:
        """Take back ``expect``: the child was not born."""
        self._slice_kills.leave(id_)

    def add(self, newborn: Newborn, fds: Mapping[str, int]) -> ChildInfo:
        """Look after a child of this process; its zombie waits for us, so its pid is its own."""
        start_time = proc.start_time(newborn.pid)
        child = ChildInfo(newborn.id, newborn.kind, newborn.pid, start_time, next(self._serials), newborn.log)
        self._keep(child, fds)
        self._loop.watch(fds["pidfd"], READABLE, lambda _: self._ended(child.id))
        return child

    def adopt(self, child: ChildInfo, fds: Mapping[str, int]) -> ChildInfo:
        """Look after a process of an earlier supervisor; one that is known already only gains descriptors."""
        known = self._children.get(child.id)
        if known is not None:
            self.fds.put(child.id, fds)
            return known
        adopted = replace(child, serial=next(self._serials), adopted=True)
        self._keep(adopted, fds)
        if adopted.record is None and "pidfd" in fds:
            self._loop.watch(fds["pidfd"], READABLE | ONCE, lambda _: self._ended(child.id))
        return adopted

    def restore(self, child: ChildInfo, fds: Mapping[str, int]) -> None:
        """Take a child over from this process's own earlier program: children stay children over execve."""
        self._keep(child, fds)
        self._serials = itertools.count(max(child.serial + 1, next(self._serials)))
        if child.record is None and "pidfd" in fds:
            events = READABLE | ONCE if child.adopted else READABLE
            self._loop.watch(fds["pidfd"], events, lambda _: self._ended(child.id))

    def _keep(self, child: ChildInfo, fds: Mapping[str, int]) -> None:
        self._children[child.id] = child
        self.fds.put(child.id, fds)
        if child.record is None:
            self.expect(child.id, fds)
            for name in _EVENT_NAMES:
                if name in fds:
                    events = URGENT | ONCE if name == "memory_events" else READABLE
                    self._loop.watch(fds[name], events, lambda _: self._count_ooms(child.id))

    def kill(self, id_: str) -> None:
        """Kill a child and everything in its cgroup. Idempotent."""
        child = self._children.get(id_)
        if child is None:
            return
        self._kill_cgroup(id_)
        pidfd = self.fds.get(id_, "pidfd")
        if child.record is None and pidfd is not None:
            with contextlib.suppress(KernelError):  # it ended meanwhile
                process.pidfd_send_signal(pidfd, signal.SIGKILL)

    def forget(self, id_: str) -> ChildInfo | None:
        """Drop a child and its record, and return it; one that runs is dropped at its end. Idempotent."""
        child = self._children.get(id_)
        if child is not None and child.record is None:
            self._unwanted.add(id_)
            return child
        self._drop(id_)
        if child is None or child.kind != EXEC:
            exit_records.remove(self._exits, id_)
        return child

    def look(self, pid: int) -> bool:
        """Take in the end of a child of this pid; return whether there is one."""
        for child in self.running():
            if child.pid == pid and not child.adopted:
                self._ended(child.id)
                return True
        return False

    def _drop(self, id_: str) -> None:
        self._slice_kills.leave(id_)
        for fd in self.fds.of(id_).values():
            self._loop.unwatch(fd)
        self.fds.drop(id_)
        self._children.pop(id_, None)
        self._unwritten.pop(id_, None)
        self._unwanted.discard(id_)

    def _ended(self, id_: str) -> None:
        child = self._children[id_]
        pidfd = self.fds.of(id_)["pidfd"]
        source = "wait"
        if child.adopted:
            status, source = ends.status_of_stranger(pidfd, child.pid, child.start_time)
        else:
            status = ends.status_of_child(pidfd)
            if status is None:
                return
        self._count_ooms(id_, killed=status == signal.SIGKILL)
        if child.kind in (CONTAINER, INIT):
            self._kill_cgroup(id_)
        child = self._children[id_]
        record = ends.record_of(id_, child.pid, status, child.oom_kills, source)
        self._children[id_] = replace(child, record=record)
        # Nobody waits for an exec any more once the daemon is gone: what it is told suffices.
        if id_ not in self._unwanted and child.kind != EXEC:
            self._write(record)
        self._loop.unwatch(pidfd)
        if not child.adopted:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if id_ in self._unwanted:
            self._drop(id_)
            return
        self._close_watches(id_)
        self._tell(record)

    def _close_watches(self, id_: str) -> None:
        """What only mattered while it ran; its output stays until it is forgotten."""
        self._slice_kills.leave(id_)
        for name in ("pidfd", "kill_dir", "memory_events", "slice_events", "oom_eventfd", "oom_control"):
            fd = self.fds.get(id_, name)
            if fd is not None:
                self._loop.unwatch(fd)
                self.fds.close(id_, name)

    def _write(self, record: ExitRecord) -> None:
        try:
            exit_records.save(self._exits, record)
        except OSError as error:
            log.warning("exit record of %s stays in memory for now: %s", record.id, error)
            self._unwritten[record.id] = record
            self._loop.later("exit records", _RETRY_S, self._write_again)

    def _write_again(self) -> None:
        waiting, self._unwritten = self._unwritten, {}
        for record in waiting.values():
            self._write(record)

    def _count_ooms(self, id_: str, *, killed: bool = False) -> None:
        """Read the count now: at the end of a process its cgroup may be gone already.

        Args:
            id_: of a child.
            killed: it died of SIGKILL; if its cgroup is gone the count of its slice tells whether for memory.
        """
        fds = self.fds.of(id_)
        if "oom_eventfd" in fds:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fds["oom_eventfd"])
        for name in ("memory_events", "oom_control"):
            if name in fds:
                child = self._children[id_]
                try:
                    kills = oom.parse_kills(os.pread(fds[name], 4096, 0).decode())
                except OSError:
                    kills = child.oom_kills
                    if killed:
                        kills += self._slice_kills.take(id_)
                else:
                    if kills > child.oom_kills:
                        self._slice_kills.tell(id_, kills - child.oom_kills)
                self._children[id_] = replace(child, oom_kills=max(kills, child.oom_kills))

    def _kill_cgroup(self, id_: str) -> None:
        directory = self.fds.get(id_, "kill_dir")
        if directory is None:
            return
        try:
            killing.kill_directory(f"/proc/self/fd/{directory}")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.warning("cannot kill what is left in the cgroup of %s: %s", id_, error)
