"""Forks under way: between the fork of a first stage and the announcement of the second."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shim.kernel import unix
from shim.runtime import init
from shim.supervisor import birth, fdstore
from shim.supervisor.children import Children, Newborn
from shim.supervisor.fdstore import CHILD_NAMES
from shim.supervisor.loop import READABLE, Loop
from shim.supervisor.protocol import ChildInfo, Fork

_ANNOUNCED: Final = ("pidfd", "tty")

Done = Callable[[ChildInfo], None]


@dataclass
class _Pending:
    request: Fork
    kept: dict[str, int]
    done: Done


class Forks:
    """Starts first stages and takes in what they announce."""

    def __init__(self, loop: Loop, children: Children) -> None:
        self._loop = loop
        self._children = children
        self._pending: dict[int, _Pending] = {}
        self._stages: set[int] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def start(self, request: Fork, fds: dict[str, int], done: Done) -> None:
        """Fork; ``done`` gets the child once it is announced, with pid 0 if none was. Takes ``fds`` over.

        Raises:
            OSError: no fork.
        """
        for_child = {name: fd for name, fd in fds.items() if name in CHILD_NAMES}
        kept = {name: fd for name, fd in fds.items() if name not in for_child}
        try:
            pid, announce = birth.fork(for_child)
        except BaseException:
            fdstore.close_all(kept.values())
            raise
        finally:
            fdstore.close_all(for_child.values())
        self._stages.add(pid)
        os.set_blocking(announce, False)
        self._pending[announce] = _Pending(request, kept, done)
        self._loop.watch(announce, READABLE, lambda _: self._announced(announce))

    def reap_stages(self) -> None:
        """Reap first stages that ended; each is asked by itself, so that none hides another."""
        for pid in list(self._stages):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._stages.discard(pid)

    def owns(self, pid: int) -> bool:
        """Tell whether a pid is that of a first stage."""
        return pid in self._stages

    def take_in(self) -> None:
        """Take in what is announced already, before unknown zombies are looked at."""
        for announce in list(self._pending):
            self._announced(announce)

    def _announced(self, announce: int) -> None:
        sock = socket.socket(fileno=announce)
        try:
            data, fds = unix.recv_message(sock, init.ANNOUNCEMENT.size, len(_ANNOUNCED))
        except BlockingIOError:
            sock.detach()
            return
        except (OSError, ValueError):
            data, fds = b"", []
        self._loop.unwatch(announce)
        sock.close()
        pending = self._pending.pop(announce)
        request = pending.request
        if not data:
            fdstore.close_all(pending.kept.values())
            pending.done(ChildInfo(request.id, request.kind, 0, 0, log=request.log))
            return
        (pid,) = init.ANNOUNCEMENT.unpack(data)
        named = dict(zip(_ANNOUNCED, fds, strict=False))
        child = self._children.add(Newborn(request.id, request.kind, pid, request.log), pending.kept | named)
        pending.done(child)
