"""The supervisor's end of the logger: starts it, hands it what a container writes, starts it again.

The descriptors stay in the supervisor's store, so a logger that is killed costs at most the chunk that it
had read and not yet written. A logger that outlived an earlier supervisor is taken over with what it holds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shim.kernel import unix
from shim.supervisor import fdstore, programs, protocol
from shim.supervisor.children import Children
from shim.supervisor.loop import Loop
from shim.supervisor.packets import Packets, split
from shim.supervisor.protocol import Adopt, Child, ChildInfo, Hello, List, Message, Reply

log = logging.getLogger(__name__)

MODULE: Final = "shim.supervisor.logger"
_AGAIN_S: Final = 0.2
_TAKE_OVER_S: Final = 5.0
_LOGGED: Final = (protocol.CONTAINER, protocol.INIT)

Answer = Callable[[Reply], None]


@dataclass
class _Waiting:
    """A request to the logger whose reply somebody awaits; sent again to the next logger, with its fds."""

    message: Message
    answer: Answer
    fds: tuple[int, ...]


class LoggerLink:
    """Owns the connection to the one logger.

    Args:
        loop: where everything happens.
        children: what there is to be logged.
        socket_path: where a logger listens for the next supervisor.
    """

    def __init__(self, loop: Loop, children: Children, socket_path: str) -> None:
        self._loop = loop
        self._children = children
        self._path = socket_path
        self._packets: Packets | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._seq = 0
        self._ending = False
        self.pid = 0

    def start(self, inherited: socket.socket | None = None) -> None:
        """Take over a logger that runs, or start one."""
        if inherited is not None:
            self._attach(inherited)
            return
        sock = self._find()
        if sock is None:
            self._spawn()
            return
        self._take_over(sock)
        self._attach(sock)

    def fileno(self) -> int | None:
        """Return the connection's descriptor, for an upgrade to keep."""
        return None if self._packets is None else self._packets.fileno()

    def adopt(self, child: ChildInfo) -> None:
        """Hand a child's output, and copies of what is held for it, to the logger."""
        if child.kind in _LOGGED:
            names, fds = split(self._children.fds.of(child.id))
            self._send(Adopt(self._next(), child, names), fds)

    def forget(self, id_: str, child: ChildInfo | None) -> None:
        """Tell the logger that a child is over; of one that is not known here it may know."""
        if child is None or child.kind in _LOGGED:
            self._send(protocol.Forget(self._next(), id_))

    def request(self, build: Callable[[int], Message], answer: Answer, fds: Iterable[int] = ()) -> None:
        """Pass a request on with descriptors, which are taken over; ``answer`` gets the logger's reply."""
        seq = self._next()
        message = build(seq)
        waiting = self._waiting[seq] = _Waiting(message, answer, tuple(fds))
        self._send(message, waiting.fds)

    def shutdown(self) -> None:
        """Let the logger end when it has written what it has."""
        self._ending = True
        self._send(protocol.Shutdown(self._next(), force=True))

    def reap(self) -> None:
        """Take in the end of a logger that is a child of this process."""
        if self.pid:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    return
            self.pid = 0

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _send(self, message: Message, fds: Iterable[int] = ()) -> None:
        if self._packets is not None:
            self._packets.send(message, tuple(fds))

    def _find(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            unix.connect(sock, self._path)
            ours = unix.peer(sock)[1] == os.getuid()
        except OSError:
            ours = False
        if not ours:
            sock.close()
            return None
        return sock

    def _take_over(self, sock: socket.socket) -> None:
        """Ask a logger for all that it holds, before anything else: this is the one time that we wait."""
        sock.settimeout(_TAKE_OVER_S)
        last, more = 0, True
        try:
            while more:
                unix.send_message(sock, protocol.encode(List(self._next(), last)))
                while True:
                    data, fds = unix.recv_message(sock, protocol.MAX_BYTES, protocol.MAX_FDS)
                    if not data:
                        return
                    message = protocol.decode(data)
                    if isinstance(message, Reply):
                        more = message.more
                        break
                    if isinstance(message, Child):
                        last = max(last, message.child.serial)
                        named = fdstore.pair(message.names, fds)
                        self._children.adopt(message.child, named)
        except (OSError, ValueError, protocol.ProtocolError) as error:
            log.warning("a logger of an earlier supervisor does not tell what it holds: %s", error)

    def _spawn(self) -> None:
        ours, theirs = unix.socketpair()
        try:
            self.pid = programs.spawn(MODULE, ["--socket", self._path], theirs)
        except OSError as error:
            log.error("cannot start the logger: %s", error)  # noqa: TRY400  # the loop goes on and tries again
            os.close(ours)
            self._loop.later("logger", _AGAIN_S, self._spawn)
            return
        finally:
            os.close(theirs)
        self._attach(socket.socket(fileno=ours))

    def _attach(self, sock: socket.socket) -> None:
        self._packets = Packets(self._loop, sock, self._on_message, self._on_end)
        self._send(Hello(self._next()))
        for child in list(self._children.after(0)):
            self.adopt(child)
        for waiting in self._waiting.values():
            self._send(waiting.message, waiting.fds)

    def _on_message(self, message: Message, fds: Mapping[str, int]) -> None:
        fdstore.close_all(fds.values())
        if isinstance(message, Reply):
            waiting = self._waiting.pop(message.seq, None)
            if waiting is not None:
                fdstore.close_all(waiting.fds)
                waiting.answer(message)
            elif message.failure:
                log.warning("logger: %s", protocol.error_of(message.failure))

    def _on_end(self) -> None:
        self._packets = None
        if self._ending:
            return
        log.warning("the logger is gone: starting another")
        self._loop.later("logger", 0 if self.pid else _AGAIN_S, self._spawn)
