"""Exec: a program in a container, with its streams in the hands of the caller."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, ShimError
from shim.model import ids
from shim.model.container import ContainerState, ExitRecord
from shim.model.streams import StreamOptions
from shim.services.cgroup_removal import remove_exec_cgroup_later
from shim.services.containers.stream_ends import StreamEnds
from shim.services.node import Node
from shim.services.validate import container as container_checks
from shim.services.validate import streams as checks
from shim.services.views import ContainerView
from shim.services.waiters import comes_first

log = logging.getLogger(__name__)

_HANG_UP_S: Final = 1.0  # how long a program has to end by itself when its streams are gone
_KILLED_WITHIN_S: Final = 5.0  # a process that the kernel cannot kill must not keep the caller
_MOST_AHEAD: Final = 16  # processes that wait for their clients, on the whole node

AHEAD_S: Final = 2.0  # a kubelet connects at once; who comes later waits for the whole start


class ExecSession(StreamEnds):
    """A program that runs in a container, or has ended.

    The session ends with ``close``, also after the program did. A program that still runs then is hung up:
    its streams are closed, and a terminal sends SIGHUP. Where that does not end it soon, it is killed with
    everything it started. What a program has left in the background when it ended by itself lives on.
    """

    def __init__(
        self, node: Node, exec_id: str, exited: asyncio.Future[ExitRecord], ends: dict[str, int]
    ) -> None:
        terminal = ends.pop("tty", None)
        super().__init__(f"exec {exec_id}", **ends, terminal=terminal)
        self._node = node
        self._id = exec_id
        self._exited = exited
        self._ending: asyncio.Task[None] | None = None

    async def wait(self) -> int:
        """Wait until the program has ended; return its exit code, 128 + signal for a death by signal."""
        return (await asyncio.shield(self._exited)).exit_code

    async def close_stdin(self) -> None:
        """Let the program read the end of its input; with a terminal it notices nothing. Idempotent."""
        self.close_input()

    async def close(self) -> None:
        """Return once nothing is left; it goes on when the caller leaves. Idempotent."""
        if self._ending is None:
            self.close_ends()
            self._ending = self._node.background.task(f"end of exec {self._id}", self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await asyncio.wait((self._exited,), timeout=_HANG_UP_S)
        if not self._exited.done():
            await self._node.supervisor.kill(self._id)
            await asyncio.wait((self._exited,), timeout=_KILLED_WITHIN_S)


@dataclass(slots=True)
class _Opening:
    """A session on its way to who asked for it.

    Attributes:
        left: set when he does not wait any more.
        session: once there is one.
        go: done when the program may be executed; None: at once.
    """

    left: asyncio.Event = field(default_factory=asyncio.Event)
    session: ExecSession | None = None
    go: asyncio.Future[None] | None = None


class ExecAhead:
    """An exec that is made ready while its client is still on its way: all but execve is done.

    Its process waits in the container's namespaces, as root of the node but for those, and executes nothing
    before the go. Where that does not come soon, the process is killed, and the exec starts from the
    beginning when it is asked for; so it does where anything else went wrong.
    """

    def __init__(
        self, node: Node, view: ContainerView, argv: tuple[str, ...], options: StreamOptions
    ) -> None:
        loop = asyncio.get_running_loop()
        self._node = node
        self._id = ids.new_id()
        self._go: asyncio.Future[None] = loop.create_future()
        self._opening = _Opening(go=self._go)
        self._error: ShimError | OSError | None = None
        node.execs_ahead.add(self)
        self._task = node.background.task(
            f"exec {self._id} ahead of its client", self._run(view, argv, options)
        )
        self._timer = loop.call_later(AHEAD_S, self.close)

    async def take(self) -> ExecSession | None:
        """Have the program executed; return the session, None if it has to be started from the beginning.

        Raises:
            ExecFailed, KernelError: as ``open_exec``.
        """
        self._timer.cancel()
        self._node.execs_ahead.discard(self)
        if self._task.done() or self._go.done():  # it was closed, or sent home (``tracers.Arrivals``)
            _ = self.close()
            return None
        self._go.set_result(None)
        try:
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            _ = self.close()
            raise
        if self._error is not None:
            raise self._error
        return self._opening.session

    def close(self) -> asyncio.Task[None]:
        """Undo what was made ready, in the background; return what is done when that is. Idempotent."""
        self._timer.cancel()
        self._node.execs_ahead.discard(self)
        self._go.cancel()
        self._opening.left.set()
        if self._opening.session is not None:
            self._node.background.start(f"end of exec {self._id}", self._opening.session.close())
        return self._task

    async def _run(self, view: ContainerView, argv: tuple[str, ...], options: StreamOptions) -> None:
        try:
            await self._node.flights.join_or_start(
                ("exec", self._id),
                None,
                lambda: _open(self._node, view, self._id, argv, options, self._opening),
                what=f"exec {self._id} in container {view.spec.id}",
            )
        except (ShimError, OSError) as error:
            self._error = error


def check_exec(node: Node, id_: str, argv: tuple[str, ...], options: StreamOptions) -> ContainerView:
    """Return the container in which ``argv`` could be run now.

    Raises:
        NotFound: no container has this id or prefix.
        InvalidArgument: no program, one that the kernel cannot take, or streams that make no sense.
        FailedPrecondition: the container does not run.
    """
    checks.check_options(options)
    if not argv:
        raise InvalidArgument("cmd is empty: it must name a program")
    container_checks.check_argv("cmd", argv)
    view = node.records.container(id_)
    if view.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"cannot exec in container {view.spec.id!r}: it is {view.state.name}")
    return view


def expect_exec(node: Node, id_: str, argv: tuple[str, ...], options: StreamOptions) -> ExecAhead | None:
    """Make an exec ready that a client is about to open; None where enough are made ready already.

    Raises:
        NotFound, InvalidArgument, FailedPrecondition: as ``check_exec``.
    """
    view = check_exec(node, id_, argv, options)
    return ExecAhead(node, view, argv, options) if len(node.execs_ahead) < _MOST_AHEAD else None


async def open_exec(
    node: Node, id_: str, argv: tuple[str, ...], options: StreamOptions, ahead: ExecAhead | None = None
) -> ExecSession:
    """Start a program in a container; return when it runs. The session is to be closed.

    Args:
        node: where.
        id_: a whole id or a prefix.
        argv: program and arguments.
        options: its streams.
        ahead: what was made ready for exactly this.

    Raises:
        NotFound, InvalidArgument, FailedPrecondition: as ``check_exec``.
        ExecFailed: the program is missing or may not be run.
        KernelError: the kernel refused a step.
    """
    view = check_exec(node, id_, argv, options)
    if ahead is not None and (session := await ahead.take()) is not None:
        return session
    exec_id = ids.new_id()
    opening = _Opening()
    try:
        return await node.flights.join_or_start(
            ("exec", exec_id),
            None,
            lambda: _open(node, view, exec_id, argv, options, opening),
            what=f"exec {exec_id} in container {view.spec.id}",
        )
    except asyncio.CancelledError:
        opening.left.set()
        if opening.session is not None:
            node.background.start(f"end of exec {exec_id}", opening.session.close())
        raise


async def _open(
    node: Node,
    view: ContainerView,
    exec_id: str,
    argv: tuple[str, ...],
    options: StreamOptions,
    opening: _Opening,
) -> ExecSession:
    """Runs in a task of its own, so that what was started is put away whoever leaves."""
    number = next(node.exec_numbers)
    cgroup = view.spec.cgroup
    place = await node.pools.cgroups.run(node.cgroups.create_exec, cgroup, number)
    exited = node.waiters.expect(exec_id)
    launch = asyncio.ensure_future(node.launcher.exec(view, exec_id, argv, place, options, opening.go))
    try:
        if not await comes_first(launch, opening.left, None):  # a frozen container lets nobody in
            await node.supervisor.kill(exec_id)
        ends = await launch
    except BaseException:
        node.waiters.drop(exec_id)
        remove_exec_cgroup_later(node, cgroup, number)
        raise
    exited.add_done_callback(lambda _: remove_exec_cgroup_later(node, cgroup, number))
    session = opening.session = ExecSession(node, exec_id, exited, _with_terminal(ends, options))
    if options.tty and not options.stdout:
        session.discard_output()
    if opening.left.is_set():
        await session.close()
    return session


def _with_terminal(ends: dict[str, int], options: StreamOptions) -> dict[str, int]:
    """Return the ends by name, those of a terminal as copies of its master."""
    if "tty" in ends:
        for name, asked in (("stdin", options.stdin), ("stdout", options.stdout)):
            if asked:
                ends[name] = os.dup(ends["tty"])
    return ends
