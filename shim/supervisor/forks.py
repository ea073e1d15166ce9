"""Forks under way: from a first stage that waits to the announcement of the second."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shim.kernel import unix
from shim.runtime import init
from shim.supervisor import birth, fdstore
from shim.supervisor.birth import FirstStage
from shim.supervisor.children import Children, Newborn
from shim.supervisor.fdstore import CHILD_NAMES
from shim.supervisor.loop import READABLE, Loop
from shim.supervisor.protocol import ChildInfo, Fork

_ANNOUNCED: Final = ("pidfd", "tty")
# After a start, not beside it: a fork makes what is announced, or executed, meanwhile wait.
_REFILL_S: Final = 0.008
_REFILL_SOON_S: Final = 0.003  # where the next start would have to wait for a fork
_SPARES: Final = 3

log = logging.getLogger(__name__)

Done = Callable[[ChildInfo], None]


@dataclass
class _Pending:
    request: Fork
    stage: FirstStage
    kept: dict[str, int]
    done: Done


class Forks:
    """Starts first stages and takes in what they announce."""

    def __init__(self, loop: Loop, children: Children) -> None:
        self._loop = loop
        self._children = children
        self._pending: dict[int, _Pending] = {}
        self._stages: set[int] = set()
        self._spares: list[FirstStage] = []

    def __len__(self) -> int:
        return len(self._pending)

    def start(self, request: Fork, fds: dict[str, int], done: Done) -> None:
        """Fork; ``done`` gets the child once it is announced, with pid 0 if none was. Takes ``fds`` over.

        Raises:
            OSError: no fork.
        """
        for_child = {name: fd for name, fd in fds.items() if name in CHILD_NAMES}
        kept = {name: fd for name, fd in fds.items() if name not in for_child}
        self._children.expect(request.id, kept)
        try:
            stage = self._begin(for_child)
        except BaseException:
            self._children.unexpect(request.id)
            fdstore.close_all(kept.values())
            raise
        finally:
            fdstore.close_all(for_child.values())
        self._pending[stage.fd] = _Pending(request, stage, kept, done)
        self._loop.watch(stage.fd, READABLE, lambda _: self._announced(stage.fd))

    def refill(self) -> None:
        """Have first stages ready for the next requests: one now, the others while nothing else is to do."""
        if self._pending:
            return
        try:
            self._spares.append(self._fork())
        except OSError as error:
            log.warning("no process can be forked ahead: %s", error)
            return
        self._refill_later()

    def _refill_later(self) -> None:
        if len(self._spares) < _SPARES and not self._pending:
            self._loop.later("spares", _REFILL_S if self._spares else _REFILL_SOON_S, self.refill)

    def drop_spares(self) -> None:
        """Let the first stages end that nobody has asked for yet."""
        for spare in self._spares:
            os.close(spare.fd)
        self._spares.clear()

    def _begin(self, fds: Mapping[str, int]) -> FirstStage:
        while self._spares:
            spare = self._spares.pop()
            try:
                birth.give(spare, fds)
            except OSError:  # somebody has killed it
                os.close(spare.fd)
            else:
                return spare
        stage = self._fork()
        birth.give(stage, fds)
        return stage

    def _fork(self) -> FirstStage:
        stage = birth.fork()
        self._stages.add(stage.pid)
        return stage

    def reap_stages(self) -> None:
        """Reap first stages that ended; each is asked by itself, so that none hides another."""
        for pid in list(self._stages):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._stages.discard(pid)

    def take_in(self) -> None:
        """Take in what is announced already, before unknown zombies are looked at."""
        for announce in list(self._pending):
            self._announced(announce)

    def kill(self, id_: str) -> None:
        """End what hangs on its way to its announcement. Idempotent.

        For first stages that have not forked: one that has leaves a second stage behind that nobody knows.
        """
        for announce, pending in list(self._pending.items()):
            if pending.request.id != id_:
                continue
            self._announced(announce)  # it may have come just now: then it is a child as any other
            if announce not in self._pending:
                continue
            if pending.stage.pid in self._stages:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pending.stage.pid, signal.SIGKILL)
            self._loop.unwatch(announce)
            os.close(announce)
            self._over(announce)

    def _over(self, announce: int) -> None:
        """Tell that there is no child."""
        pending = self._pending.pop(announce)
        self._children.unexpect(pending.request.id)
        fdstore.close_all(pending.kept.values())
        self._refill_later()
        request = pending.request
        pending.done(ChildInfo(request.id, request.kind, 0, 0, log=request.log))

    def _announced(self, announce: int) -> None:
        sock = socket.socket(fileno=announce)
        # The second stage has the socket for a moment, and may have a tracer: the first stage is believed.
        first = self._pending[announce].stage.pid
        try:
            data, fds = unix.recv_from(sock, first, init.ANNOUNCEMENT.size, len(_ANNOUNCED))
        except BlockingIOError:
            sock.detach()
            return
        except (OSError, ValueError):
            data, fds = b"", []
        self._loop.unwatch(announce)
        sock.close()
        if not data:
            self._over(announce)
            return
        pending = self._pending.pop(announce)
        request = pending.request
        self._refill_later()
        (pid,) = init.ANNOUNCEMENT.unpack(data)
        named = dict(zip(_ANNOUNCED, fds, strict=False))
        child = self._children.add(Newborn(request.id, request.kind, pid, request.log), pending.kept | named)
        pending.done(child)
