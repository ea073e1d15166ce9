"""The supervisor: parent of every container and exec. ``python -m shim.supervisor.main --state DIRECTORY``.

One thread, one loop. It reads no spec and touches no disk but tmpfs; what it imports is here before the
first fork, since a child may import nothing. It ends only when it is told to, or killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import getopt
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import shim
from shim.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, ShimError
from shim.kernel import capabilities, process, unix
from shim.model.container import ExitRecord
from shim.supervisor import exit_records, fdstore, packets, programs, protocol, upgrade
from shim.supervisor.children import Children
from shim.supervisor.forks import Forks
from shim.supervisor.logger_link import LoggerLink
from shim.supervisor.loop import READABLE, Loop
from shim.supervisor.packets import Packets
from shim.supervisor.protocol import Child, ChildInfo, Exited, Message, Reply, failure_of

log = logging.getLogger(__name__)

SOCKET: Final = "supervisor.sock"
LOGGER_SOCKET: Final = "logger.sock"
LOCK: Final = "supervisor.lock"

_OPTIONS: Final = ("state=", "resume=", "check")

_ForLogger = protocol.Reopen | protocol.Drain | protocol.Attach | protocol.CloseStdin
_NO_FDS: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the supervisor's files lie, below the state directory."""

    state: str

    @property
    def directory(self) -> str:
        """The directory of the sockets, mode 0700."""
        return os.path.join(self.state, "supervisor")

    @property
    def exits(self) -> str:
        """The directory of exit records."""
        return os.path.join(self.state, "exits")

    def file(self, name: str) -> str:
        """Return a path in the directory of the sockets."""
        return os.path.join(self.directory, name)


class Supervisor:
    """Everything that one supervisor has."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.loop = Loop()
        self.children = Children(self.loop, places.exits, self._tell)
        self.forks = Forks(self.loop, self.children)
        self.logger = LoggerLink(self.loop, self.children, places.file(LOGGER_SOCKET))
        self._clients: set[Packets] = set()
        self._running = True
        self.listener: socket.socket | None = None
        self.lock_fd = -1

    def run(self) -> None:
        """Serve until told to end."""
        self._watch_signals()
        listener = self.listener = self.listener or unix.listen(self.places.file(SOCKET))
        listener.setblocking(False)
        self.loop.watch(listener.fileno(), READABLE, lambda _: self._accept(listener))
        self._reap()
        self.forks.refill()
        while self._running:
            self.loop.turn()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.places.file(SOCKET))

    def _watch_signals(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def woken(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 4096)
            self._reap()

        self.loop.watch(reader, READABLE, woken)

    def _reap(self) -> None:
        """Reap first stages and loggers, and strangers: orphans that came here since we are a subreaper.

        A child that is not announced yet looks like a stranger, so these wait until no fork is under way.
        """
        self.forks.reap_stages()
        self.logger.reap()
        self.forks.take_in()
        while not len(self.forks):
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            if not self.children.look(info.si_pid):
                os.waitpid(info.si_pid, os.WNOHANG)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if unix.peer(sock)[1] != os.getuid():
            sock.close()
            return
        client = _Client(self, sock)
        self._clients.add(client.packets)

    def gone(self, client: Packets) -> None:
        """Forget a connection."""
        self._clients.discard(client)

    def _tell(self, record: ExitRecord) -> None:
        for client in list(self._clients):
            client.send(Exited(record))

    def stop(self, force: bool) -> None:
        """End after this turn.

        Raises:
            FailedPrecondition: there are children that run, and they are not to be left alone.
        """
        running = self.children.running()
        if running and not force:
            raise FailedPrecondition(f"{len(running)} processes are running")
        self.logger.shutdown()
        self.forks.drop_spares()
        self._running = False


class _Client:
    """The requests of one connection."""

    def __init__(self, supervisor: Supervisor, sock: socket.socket) -> None:
        self._supervisor = supervisor
        self._children = supervisor.children
        self.packets = Packets(supervisor.loop, sock, self._on_message, self._on_end)

    def _on_end(self) -> None:
        self._supervisor.gone(self.packets)

    def _on_message(self, message: Message, fds: dict[str, int]) -> None:
        seq = getattr(message, "seq", 0)
        try:
            reply = self._answer(message, fds)
        except (ShimError, OSError, ValueError) as error:
            reply = Reply(seq, failure_of(error))
        if reply is not None:
            self.packets.send(reply)

    def _answer(self, message: Message, fds: dict[str, int]) -> Reply | None:
        """Carry a request out; None: the answer comes later, or is sent already."""
        match message:
            case protocol.Fork():
                self._fork(message, fds)
                return None
            case protocol.Adopt():
                exit_records.check_id(message.child.id)
                self._supervisor.logger.adopt(self._children.adopt(message.child, fds))
                return Reply(message.seq)
            case protocol.Reopen() | protocol.Drain():
                fdstore.close_all(fds.values())
                self._pass_on(message)
                return None
            case protocol.Attach():
                self._pass_on(message, fds)
                return None
            case protocol.Upgrade():
                try:
                    upgrade.upgrade(self._supervisor, fds["executable"], message.argv)
                finally:
                    fdstore.close_all(fds.values())
        fdstore.close_all(fds.values())
        return self._answer_plain(message)

    def _answer_plain(self, message: Message) -> Reply | None:
        supervisor = self._supervisor
        match message:
            case protocol.CloseStdin(id=id_):
                self._children.fds.close(id_, "stdin_write")
                self._pass_on(message)
                return None
            case protocol.Hello(seq=seq):
                return Reply(seq, pid=os.getpid(), release=shim.__version__)
            case protocol.List(seq=seq, after=after, limit=limit):
                return self._list(seq, after, limit)
            case protocol.Kill(seq=seq, id=id_, unborn=unborn):
                if unborn:
                    supervisor.forks.kill(id_)
                self._children.kill(id_)
                return Reply(seq)
            case protocol.Forget(seq=seq, id=id_):
                supervisor.logger.forget(id_, self._children.forget(id_))
                return Reply(seq)
            case protocol.Shutdown(seq=seq, force=force):
                supervisor.stop(force)
                return Reply(seq)
        raise Internal(f"a supervisor is not asked for {type(message).__name__.lower()!r}")

    def _list(self, seq: int, after: int, limit: int) -> Reply:
        children = list(self._children.after(after))
        for child in children[:limit]:
            self._send_child(seq, child, all_fds=True)
        return Reply(seq, more=len(children) > limit)

    def _send_child(self, seq: int, child: ChildInfo, *, all_fds: bool) -> None:
        fds = self._children.fds.of(child.id) if child.pid else {}
        if not all_fds:
            fds = {name: fd for name, fd in fds.items() if name in ("pidfd", "tty")}
        names, numbers = packets.split(fds)
        self.packets.send(Child(seq, child, names), numbers)

    def _fork(self, message: protocol.Fork, fds: dict[str, int]) -> None:
        try:
            exit_records.check_id(message.id)
            if message.kind not in protocol.KINDS or not {"plan", "sync"} <= fds.keys():
                raise InvalidArgument(f"a fork of kind {message.kind!r} with {', '.join(fds) or 'nothing'}")
            if self._children.get(message.id) is not None:
                raise AlreadyExists(f"process {message.id!r} is there already")
        except ShimError:
            fdstore.close_all(fds.values())
            raise

        def done(child: ChildInfo) -> None:
            if child.pid:
                self._supervisor.logger.adopt(child)
            self._send_child(message.seq, child, all_fds=False)

        self._supervisor.forks.start(message, fds, done)

    def _pass_on(self, message: _ForLogger, fds: Mapping[str, int] = _NO_FDS) -> None:
        def answer(reply: Reply) -> None:
            self.packets.send(protocol.with_seq(reply, message.seq))

        self._supervisor.logger.request(lambda seq: protocol.with_seq(message, seq), answer, fds.values())


def prepare(places: Places) -> int:
    """Make this process what a supervisor has to be; return the descriptor of its lock.

    Raises:
        BlockingIOError: another supervisor runs.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s supervisor %(message)s")
    programs.settle("cri-shim-superv")
    process.set_child_subreaper()
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for path in (places.directory, places.exits):
        os.makedirs(path, 0o700, exist_ok=True)
    lock_fd = os.open(places.file(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock_fd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a supervisor; return the exit code: 75 where another one runs.

    Args:
        arguments: ``--state`` with the state directory; ``--resume`` with the descriptor of an earlier
            program's state; ``--check`` only loads that, to prove that it can be.
    """
    # Not argparse: it brings modules and libraries whose pages each fork would have to copy.
    given, _ = getopt.getopt(list(sys.argv[1:] if arguments is None else arguments), "", _OPTIONS)
    options = dict(given)
    places = Places(options["--state"])
    state_fd = int(options.get("--resume", "-1"))
    if "--check" in options:
        upgrade.check(state_fd)
        return 0
    supervisor = Supervisor(places)
    if state_fd >= 0:
        upgrade.resume(supervisor, state_fd)
        programs.settle("cri-shim-superv")
    else:
        try:
            supervisor.lock_fd = prepare(places)
        except BlockingIOError:
            return os.EX_TEMPFAIL
        supervisor.logger.start()
    capabilities.last_cap()  # asked once, for all children
    gc.collect()
    gc.freeze()
    gc.disable()
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
