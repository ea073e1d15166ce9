"""The logger: turns what containers write into CRI log files. ``python -m shim.supervisor.logger``.

    supervisor                          logger
      | (descriptor 3) hello ----------> |
      | adopt + fds ------------------>  |  reads pipes and terminals, writes files
      | reopen | drain | forget ------>  |
      | attach + fds | closestdin ---->  |
      | <------------------------ reply  |
    supervisor dies: the logger goes on. Another one connects to its socket:
      | list -------------------------> |
      | <-- child + fds ... reply ------ |  and takes the descriptors of everything

It may wait for a slow disk; nothing else waits for it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import select
import socket
import sys
from collections.abc import Sequence
from typing import Final

import shim
from shim.errors import Internal, NotFound, ShimError
from shim.kernel import unix
from shim.supervisor import fdstore, packets, programs, protocol
from shim.supervisor.fdstore import FdStore
from shim.supervisor.loop import READABLE, Loop
from shim.supervisor.output import Output
from shim.supervisor.packets import Packets
from shim.supervisor.protocol import Child, ChildInfo, Message, Reply, failure_of

log = logging.getLogger(__name__)

_FD: Final = 3
_ALONE_S: Final = 60.0


class Logger:
    """Everything that one logger has.

    Args:
        socket_path: where the next supervisor finds it.
        link: the connection of the supervisor that started it.
    """

    def __init__(self, socket_path: str, link: socket.socket) -> None:
        self._loop = Loop()
        self._fds = FdStore()
        self._children: dict[str, ChildInfo] = {}
        self._outputs: dict[str, Output] = {}
        self._running = True
        self._listener = unix.listen(socket_path)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READABLE, lambda _: self._accept())
        self._link: Packets | None = None
        self._connect(link)

    def run(self) -> None:
        """Work until told to end."""
        while self._running:
            self._loop.turn()
        for output in self._outputs.values():
            output.drain()

    def _connect(self, sock: socket.socket) -> None:
        if self._link is not None:
            self._link.close()
        link = Packets(self._loop, sock, self._on_message, lambda: self._on_end(link))
        self._link = link

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            if unix.peer(sock)[1] == os.getuid():
                self._connect(sock)
            else:
                sock.close()

    def _on_end(self, link: Packets) -> None:
        if self._link is link:
            self._link = None
            self._loop.later("alone", _ALONE_S, self._alone)

    def _alone(self) -> None:
        """End, unless a supervisor came back or something still runs that the next one needs to know of."""
        if self._link is not None:
            return
        if any(self._lives(id_) for id_ in self._children):
            self._loop.later("alone", _ALONE_S, self._alone)
        else:
            self._running = False

    def _lives(self, id_: str) -> bool:
        output, pidfd = self._outputs.get(id_), self._fds.get(id_, "pidfd")
        if output is not None and not output.ended:
            return True
        return pidfd is not None and not select.select([pidfd], [], [], 0)[0]

    def _on_message(self, message: Message, fds: dict[str, int]) -> None:
        seq = getattr(message, "seq", 0)
        try:
            reply = self._answer(message, fds)
        except (ShimError, OSError) as error:
            reply = Reply(seq, failure_of(error))
        if self._link is not None:
            self._link.send(reply)

    def _answer(self, message: Message, fds: dict[str, int]) -> Reply:
        match message:
            case protocol.Hello(seq=seq):
                return Reply(seq, pid=os.getpid(), release=shim.__version__)
            case protocol.Adopt(seq=seq, child=child):
                self._adopt(child, fds)
                return Reply(seq)
            case protocol.Attach(seq=seq, id=id_):
                self._attach(id_, fds)
                return Reply(seq)
            case protocol.CloseStdin(seq=seq, id=id_):
                self._fds.close(id_, "stdin_write")
                return Reply(seq)
            case protocol.List(seq=seq, after=after, limit=limit):
                return self._list(seq, after, limit)
            case protocol.Reopen(seq=seq, id=id_):
                self._output(id_).file.reopen()
                return Reply(seq)
            case protocol.Drain(seq=seq, id=id_):
                output = self._output(id_)
                output.drain()
                return Reply(seq, dropped_bytes=output.file.dropped_bytes)
            case protocol.Forget(seq=seq, id=id_):
                self._forget(id_)
                return Reply(seq)
            case protocol.Shutdown(seq=seq):
                self._running = False
                return Reply(seq)
        fdstore.close_all(fds.values())
        raise Internal(f"a logger is not asked for {type(message).__name__.lower()!r}")

    def _adopt(self, child: ChildInfo, fds: dict[str, int]) -> None:
        self._fds.put(child.id, fds)
        if child.id in self._children:
            return
        self._children[child.id] = child
        if child.log is not None:
            self._outputs[child.id] = Output(self._loop, child.log, self._fds.of(child.id))

    def _attach(self, id_: str, fds: dict[str, int]) -> None:
        try:
            output = self._output(id_)
        except NotFound:
            fdstore.close_all(fds.values())
            raise
        output.attach(fds)

    def _forget(self, id_: str) -> None:
        output = self._outputs.pop(id_, None)
        if output is not None:
            output.drain()
            output.close()
        self._fds.drop(id_)
        self._children.pop(id_, None)

    def _list(self, seq: int, after: int, limit: int) -> Reply:
        children = sorted(
            (child for child in self._children.values() if child.serial > after), key=lambda c: c.serial
        )
        for child in children[:limit]:
            names, numbers = packets.split(self._fds.of(child.id))
            if self._link is not None:
                self._link.send(Child(seq, child, names), numbers)
        return Reply(seq, more=len(children) > limit)

    def _output(self, id_: str) -> Output:
        output = self._outputs.get(id_)
        if output is None:
            raise NotFound("log of container", id_)
        return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a logger on the connection that is descriptor 3."""
    parser = argparse.ArgumentParser(prog="shim.supervisor.logger")
    parser.add_argument("--socket", required=True, help="where the next supervisor finds this logger")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s logger %(message)s")
    programs.settle("cri-shim-logger")
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.set_inheritable(_FD, False)
    logger = Logger(options.socket, socket.socket(fileno=_FD))
    gc.collect()
    gc.freeze()
    gc.disable()
    logger.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
