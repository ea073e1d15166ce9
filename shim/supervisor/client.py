"""The daemon's side of the supervisor: finds or starts it, has it fork, and replaces it when it dies.

The daemon keeps a copy of every descriptor that the supervisor holds for a child, and hands them to the next
one; what it does not know it asks for. So supervisor, logger and daemon can each be killed, and two of them
at once, and no pipe breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import shim
from shim.errors import DeadlineExceeded, Internal, ShimError, Unavailable
from shim.kernel import unix
from shim.model.container import ExitRecord
from shim.supervisor import birth_messages, fdstore, packets, programs, protocol, spawn
from shim.supervisor.connection import Answer, Connection
from shim.supervisor.fdstore import FdStore
from shim.supervisor.main import SOCKET, Places
from shim.supervisor.protocol import ChildInfo, Exited, LogConfig, Message
from shim.supervisor.stdio import NO_STREAMS, Stdio, Streams

log = logging.getLogger(__name__)

DEFAULT_STALL_S: Final = 60.0
_START_S: Final = 60.0  # an interpreter that reads its modules on a node that is busy with all else
_POLL_S: Final = 0.01
_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A process to be started.

    Attributes:
        id: of the child: of a container, a sandbox (its namespaces or its init) or an exec.
        kind: one of ``protocol.KINDS``.
        plan: of ``runtime.plan.encode_plan``.
        log: where a container's output goes.
        kill_dir: cgroup2 directory by which all of it is killed; empty for none.
        fds: others to keep, such as those of ``Cgroups.oom_watch``; they are taken over, also by a failure.
        go: for a plan that waits for the go: done when it may go on, cancelled when it is to end.
    """

    id: str
    kind: str
    plan: bytes = field(repr=False)
    stdio: Stdio = NO_STREAMS
    log: LogConfig | None = None
    kill_dir: str = ""
    fds: Mapping[str, int] = field(default_factory=dict)
    go: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started.

    Attributes:
        fds: the caller's: sockets that the plan sent up; for an exec its ends of the streams (``stdout``,
            ``stderr``, ``stdin`` or ``tty``).
        warnings: what could not be had, but does not matter enough to stop.
    """

    info: ChildInfo
    fds: Mapping[str, int]
    warnings: tuple[str, ...] = ()


class SupervisorClient:
    """The one client of a state directory's supervisor.

    Args:
        state: the state directory.
        on_exit: called with each exit, perhaps more than once, never before ``fork`` has returned.
        stall_s: a process that needs longer, in seconds, to open a volume is ended.
    """

    def __init__(
        self, state: str, on_exit: Callable[[ExitRecord], None], stall_s: float = DEFAULT_STALL_S
    ) -> None:
        self._places = Places(state)
        self._on_exit = on_exit
        self._stall_s = stall_s
        self._connection: Connection | None = None
        self._known: dict[str, ChildInfo] = {}
        self._copies = FdStore()
        self._starting: dict[str, ExitRecord | None] = {}
        self._losses = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Future[None]] = set()
        self._ready = asyncio.Event()
        self._closed = False
        self._executable: int | None = None

    @property
    def losses(self) -> int:
        """How often it was lost since this was opened."""
        return self._losses

    @property
    def connected(self) -> bool:
        """Whether it answers just now; it is started again by itself."""
        return self._ready.is_set()

    async def open(self) -> None:
        """Find the supervisor or start one, and learn what it looks after.

        Raises:
            Unavailable: none can be started.
        """
        await self._connect()

    async def close(self, *, end_if_idle: bool = False) -> None:
        """Leave; supervisor, logger and children go on.

        Args:
            end_if_idle: where it looks after nothing, it ends, and its logger.
        """
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait((self._reconnecting,))
        if self._connection is not None:
            if end_if_idle:
                with contextlib.suppress(ShimError):
                    await self._connection.ask(protocol.Shutdown)
            self._connection.close()
        self._copies.clear()
        if self._executable is not None:
            os.close(self._executable)
            self._executable = None

    async def children(self) -> list[ChildInfo]:
        """Return all that the supervisor looks after."""
        return [child for child, _ in await self._list(keep=True)]

    async def kill(self, id_: str) -> None:
        """Kill a child and everything in its cgroup. Idempotent."""
        await self._ask(lambda seq: protocol.Kill(seq, id_))

    async def forget(self, id_: str) -> None:
        """Drop a child's descriptors and its exit record. Idempotent."""
        self._known.pop(id_, None)
        self._copies.drop(id_)
        await self._ask(lambda seq: protocol.Forget(seq, id_))

    async def reopen_log(self, id_: str) -> None:
        """Open the log file of a container again; it is there when this returns."""
        await self._ask(lambda seq: protocol.Reopen(seq, id_))

    async def drain_log(self, id_: str) -> None:
        """Return when what a container has written until now is in its log file."""
        await self._ask(lambda seq: protocol.Drain(seq, id_))

    async def attach(self, id_: str, sockets: Mapping[str, int]) -> None:
        """Have what a container writes from now on copied to sockets, which stay the caller's.

        Args:
            id_: of the container.
            sockets: by stream, ``stdout`` and ``stderr``. The far end sees their end when the container has
                closed the stream, or when it lets too much wait.

        Raises:
            NotFound: nothing is known of the container any more.
        """
        names, numbers = packets.split(sockets)
        await self._ask(lambda seq: protocol.Attach(seq, id_, names), numbers)

    async def close_stdin(self, id_: str) -> None:
        """Let a container read the end of its input, for good. Idempotent."""
        try:
            await self._ask(lambda seq: protocol.CloseStdin(seq, id_))
        finally:
            self._copies.close(id_, "stdin_write")

    def duplicate(self, id_: str, name: str) -> int | None:
        """Return a copy, the caller's, of what is kept for a child (``fdstore``); None: nothing is."""
        fd = self._copies.get(id_, name)
        return None if fd is None else os.dup(fd)

    async def upgrade(self) -> None:
        """Have the supervisor become this daemon's version of itself; its children stay."""
        argv = tuple(programs.argv_of(spawn.MODULE))
        with contextlib.suppress(Unavailable):  # it leaves all connections behind
            await self._ask(lambda seq: protocol.Upgrade(seq, argv), (self._interpreter(),))

    async def fork(self, request: ForkRequest) -> Child:
        """Start a process; return once its program runs, or a plan without a program is done.

        Raises:
            ExecFailed, KernelError, ShimError: as the child raised it; it is gone and forgotten then.
            Unavailable: the supervisor died meanwhile.
        """
        self._starting[request.id] = None
        child: Child | None = None
        hangs = False
        try:
            child = await self._fork(request)
        except DeadlineExceeded:
            hangs = True
            raise
        finally:
            if child is None:
                self._discard(request.id, hangs=hangs)
        record = self._starting.pop(request.id)
        if record is not None:
            # Not before the caller has written down that it began.
            asyncio.get_running_loop().call_soon(self._on_exit, record)
        return child

    async def _fork(self, request: ForkRequest) -> Child:
        streams = Streams(request.stdio, carries_over=request.kind == protocol.CONTAINER)
        kept = dict(request.fds) | streams.kept
        try:
            if request.kill_dir:
                kept["kill_dir"] = os.open(request.kill_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if request.kind == protocol.CONTAINER:
                kept["carry"] = os.memfd_create("carry", os.MFD_CLOEXEC)
            messages, info, up = await self._exchange(request, streams, kept)
        except BaseException:
            fdstore.close_all([*kept.values(), *streams.ours.values()])
            raise
        finally:
            streams.close_childs()
        if not info.pid:
            fdstore.close_all(kept.values())
            return Child(info, messages.fds | streams.ours, tuple(messages.warnings))
        self._known[request.id] = info
        self._copies.put(request.id, kept | up)
        return Child(info, messages.fds | streams.ours, tuple(messages.warnings))

    async def _exchange(
        self, request: ForkRequest, streams: Streams, kept: Mapping[str, int]
    ) -> tuple[birth_messages.Messages, ChildInfo, dict[str, int]]:
        plan = unix.sealed_memfd("plan", request.plan)
        ours, theirs = unix.socketpair()
        scope = asyncio.timeout(None)
        messages = birth_messages.Messages(
            ours, lambda begins: _limit(scope, self._stall_s if begins else None), request.go
        )
        fds = {"plan": plan, "sync": theirs} | streams.childs | dict(kept)
        names, numbers = packets.split(fds)
        try:
            async with scope:
                try:
                    answer = await self._ask(
                        lambda seq: protocol.Fork(seq, request.id, request.kind, names, request.log),
                        numbers,
                        one_child=True,
                    )
                finally:
                    os.close(plan)
                    os.close(theirs)
                ((child, up),) = answer.children
                try:
                    await messages.end()
                    _check_announced(request, child.child)
                except BaseException:
                    fdstore.close_all(up.values())
                    raise
        except BaseException as error:
            messages.close()
            if isinstance(error, TimeoutError) and scope.expired():
                raise DeadlineExceeded(
                    f"cannot {messages.doing}: it takes longer than {self._stall_s:g} s; does its file server"
                    " answer?"
                ) from None
            raise
        return messages, child.child, up

    def _discard(self, id_: str, *, hangs: bool) -> None:
        """What failed on its way to its program is killed and forgotten; nobody waits for it."""

        async def discard() -> None:
            with contextlib.suppress(ShimError, OSError):
                await self._ask(lambda seq: protocol.Kill(seq, id_, hangs))
                await self.forget(id_)
            self._starting.pop(id_, None)

        task = asyncio.ensure_future(discard())
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _ask(
        self, build: Callable[[int], Message], fds: tuple[int, ...] = (), *, one_child: bool = False
    ) -> Answer:
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(_START_S):
                    await self._ready.wait()
            except TimeoutError:
                raise Unavailable("no supervisor answers; see the daemon's log for why") from None
        if self._connection is None:
            raise Internal("the supervisor's client is used before it is opened")
        return await self._connection.ask(build, fds, one_child=one_child)

    def _interpreter(self) -> int:
        if self._executable is None:
            self._executable = spawn.sealed_interpreter()
        return self._executable

    async def _connect(self) -> None:
        sock = await self._find_or_start()
        connection = Connection(sock, self._exited, self._lost)
        self._connection = connection
        hello = (await connection.ask(protocol.Hello)).reply
        for id_, child in list(self._known.items()):
            names, numbers = packets.split(self._copies.of(id_))
            await connection.ask(lambda seq, c=child, n=names: protocol.Adopt(seq, c, n), numbers)  # type: ignore[misc]
        self._ready.set()
        for child, fds in await self._list(keep=True):
            del fds
            if child.record is not None:
                self._exited(Exited(child.record))
        if hello is not None and hello.release != shim.__version__:
            log.info("the supervisor (pid %d) is of release %s: it is upgraded", hello.pid, hello.release)
            await self.upgrade()

    async def _find_or_start(self) -> socket.socket:
        until = spawn.GiveUp(_START_S)
        path, started = self._places.file(SOCKET), False
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                unix.connect(sock, path)
            except OSError as error:
                sock.close()
                until.check(f"no supervisor answers at {path}: {error.strerror}")
            else:
                return sock
            if not started:
                spawn.start(self._places.state, self._interpreter())
                started = True
            await asyncio.sleep(_POLL_S)

    async def _list(self, *, keep: bool) -> list[tuple[ChildInfo, dict[str, int]]]:
        found: list[tuple[ChildInfo, dict[str, int]]] = []
        last, more = 0, True
        while more:
            answer = await self._ask(lambda seq, after=last: protocol.List(seq, after))  # type: ignore[misc]
            for message, fds in answer.children:
                last = max(last, message.child.serial)
                found.append((message.child, {}))
                if keep and message.child.record is None:
                    self._known[message.child.id] = message.child
                    self._copies.put(message.child.id, fds)
                else:
                    fdstore.close_all(fds.values())
            more = answer.reply is not None and answer.reply.more
        return found

    def _exited(self, hint: Exited) -> None:
        record = hint.record
        known = self._known.get(record.id)
        if known is not None:
            self._known[record.id] = replace(known, record=record)
        if record.id in self._starting:
            self._starting[record.id] = record
            return
        self._on_exit(record)

    def _lost(self) -> None:
        self._ready.clear()
        if not self._closed and (self._reconnecting is None or self._reconnecting.done()):
            self._losses += 1
            log.warning("the supervisor is gone; another takes over %d processes", len(self._known))
            self._reconnecting = asyncio.ensure_future(self._reconnect())

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                await self._connect()
            except (ShimError, OSError) as error:
                log.error("cannot start a supervisor: %s", error)  # noqa: TRY400  # tried again
                await asyncio.sleep(_RETRY_S)
            else:
                return


def _limit(scope: asyncio.Timeout, seconds: float | None) -> None:
    scope.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def _check_announced(request: ForkRequest, child: ChildInfo) -> None:
    if not child.pid and request.kind != protocol.NAMESPACES:
        raise Internal(f"the init child of {request.id} died before it could tell why")
