"""Attach: the streams of a container's own process, for any number of clients at once.

The logger reads what the container writes and copies it to a socket for each client; what a client writes
goes straight into the container's input, which the daemon holds.

How an input ends is as containerd has it. Where the container wants it to be opened once (``stdin_once``) the
container reads its end, and the client still gets the output; else the input stays open for the next client,
and the attachment is over. A terminal has no end of input, so there the attachment is over as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from shim.model.container import ContainerConfig, ContainerState
from shim.model.streams import StreamOptions
from shim.services.containers.stream_ends import StreamEnds
from shim.services.exit_reasons import UNKNOWN_EXIT_CODE
from shim.services.node import Node
from shim.services.validate import streams as checks
from shim.services.views import ContainerView

_EXIT_S: Final = 1.0  # its end is told a moment after that of its output
_BUFFER_BYTES: Final = 1024 * 1024
_SO_SNDBUFFORCE: Final = 32  # socket(7)


class Attachment(StreamEnds):
    """One client of a container's streams.

    The end of ``stdout`` and ``stderr`` comes when the container has closed them, or when the client was too
    far behind and is cut off. When all that were asked for have ended, the attachment is over.

    Args:
        node: where.
        view: the container.
        ends: as of StreamEnds.
    """

    def __init__(self, node: Node, view: ContainerView, ends: dict[str, int]) -> None:
        terminal = ends.pop("terminal", None)
        super().__init__(f"container {view.spec.id!r}", **ends, terminal=terminal)
        self._node = node
        self._id = view.spec.id
        self._config = view.spec.config
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._detached = False
        self._hangups = select.epoll()
        self._outputs = {fd for fd in (self.stdout, self.stderr) if fd is not None}
        for fd in self._outputs:
            self._hangups.register(fd, select.EPOLLRDHUP)  # told of while there is still something to be read
        self._loop.add_reader(self._hangups.fileno(), self._hung_up)

    async def wait(self) -> int:
        """Wait until the container has ended, and return its exit code; 0 if the attachment ends before."""
        view = self._node.records.find_container(self._id)
        if view is None:
            return UNKNOWN_EXIT_CODE
        if view.status.finished_at_ns:
            return view.status.exit_code
        exited = self._node.waiters.expect(self._id)
        await asyncio.wait((exited, self._over), return_when=asyncio.FIRST_COMPLETED)
        if not self._detached:
            await asyncio.wait((exited,), timeout=_EXIT_S)
        return exited.result().exit_code if exited.done() else 0

    async def close_stdin(self) -> None:
        """The client sends no more. Idempotent."""
        if self.stdin is None:
            return
        self.close_input()
        if closes_input(self._config):
            await self._node.supervisor.close_stdin(self._id)
        elif self._config.stdin:
            self._detach()

    async def close(self) -> None:
        """The client is gone. Idempotent."""
        self._detach()
        try:
            await self.close_stdin()
        finally:
            if not self._hangups.closed:
                self._loop.remove_reader(self._hangups.fileno())
                self._hangups.close()
            self.close_ends()

    def _hung_up(self) -> None:
        for fd, _ in self._hangups.poll(0):
            self._hangups.unregister(fd)
            self._outputs.discard(fd)
        if not self._outputs:
            self._is_over()

    def _is_over(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _detach(self) -> None:
        """Let the reader of the output come to its end, after what was sent to it until now."""
        for fd in (self.stdout, self.stderr):
            if fd is not None:
                with contextlib.closing(socket.socket(fileno=os.dup(fd))) as sock:
                    with contextlib.suppress(OSError):  # ENOTCONN: the logger has closed it before
                        sock.shutdown(socket.SHUT_RDWR)
        self._detached = True
        self._is_over()


def closes_input(config: ContainerConfig) -> bool:
    """Tell whether the container reads the end of its input when a client's ends. Pure."""
    return config.stdin and config.stdin_once and not config.tty


def check_attach(node: Node, id_: str, options: StreamOptions) -> ContainerView:
    """Return the container that could be attached to now.

    Raises:
        NotFound: no container has this id or prefix.
        InvalidArgument: streams that make no sense, or a terminal where the container has none.
        FailedPrecondition: the container does not run.
    """
    checks.check_options(options)
    view = node.records.container(id_)
    if options.tty and not view.spec.config.tty:
        raise InvalidArgument(f"tty is true, but container {view.spec.id!r} has no terminal")
    if view.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"cannot attach to container {view.spec.id!r}: it is {view.state.name}")
    return view


async def open_attachment(node: Node, id_: str, options: StreamOptions) -> Attachment:
    """Attach to a running container. The attachment is to be closed.

    Raises:
        NotFound, InvalidArgument, FailedPrecondition: as ``check_attach``.
        Unavailable: the supervisor died, and the next one too.
    """
    view = check_attach(node, id_, options)
    try:
        return await _attach(node, view, options)
    except Unavailable:  # the supervisor died meanwhile; whatever got the sockets, they are closed
        return await _attach(node, view, options)


async def _attach(node: Node, view: ContainerView, options: StreamOptions) -> Attachment:
    ends: dict[str, int] = {}
    try:
        await _open_outputs(node, view, options, ends)
        if options.stdin:
            ends["stdin"] = _input(node, view)
        if view.spec.config.tty and (terminal := node.supervisor.duplicate(view.spec.id, "tty")) is not None:
            ends["terminal"] = terminal
    except BaseException:
        for fd in ends.values():
            os.close(fd)
        raise
    return Attachment(node, view, ends)


async def _open_outputs(
    node: Node, view: ContainerView, options: StreamOptions, ends: dict[str, int]
) -> None:
    """Put our ends into ``ends``. One that the container has not, such as a terminal's stderr, just ends."""
    sent: dict[str, socket.socket] = {}
    try:
        for name, asked in (("stdout", options.stdout), ("stderr", options.stderr)):
            if asked:
                ours, sent[name] = socket.socketpair()
                ends[name] = ours.detach()
                with contextlib.suppress(PermissionError):
                    sent[name].setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        if sent:
            await node.supervisor.attach(view.spec.id, {name: sock.fileno() for name, sock in sent.items()})
    except NotFound:
        raise FailedPrecondition(f"cannot attach to container {view.spec.id!r}: it has just ended") from None
    finally:
        for sock in sent.values():
            sock.close()


def _input(node: Node, view: ContainerView) -> int:
    """Return where the container's input is written to; what nobody reads refuses to be written (EPIPE)."""
    config = view.spec.config
    if config.stdin:
        fd = node.supervisor.duplicate(view.spec.id, "tty" if config.tty else "stdin_write")
        if fd is not None:
            return fd
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    return writer
