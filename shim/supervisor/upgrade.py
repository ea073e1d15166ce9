"""The supervisor replaces its own program, and stays the parent of its children.

execve keeps pid, children, zombies and pending signals; descriptors stay where they are once they may be
inherited. What else there is to know goes into a memory file. Before anything is given up, the new code has
to prove in a child that it can load that state.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from shim.errors import FailedPrecondition, Unavailable
from shim.kernel import unix
from shim.supervisor import programs, protocol
from shim.supervisor.protocol import ChildInfo

if TYPE_CHECKING:
    from shim.supervisor.main import Supervisor

VERSION: Final = 1


def upgrade(supervisor: Supervisor, executable: int, argv: Sequence[str]) -> None:
    """Become ``executable`` with ``argv`` and this process's state; return only if that cannot be.

    Args:
        supervisor: what is to go on.
        executable: descriptor of the interpreter.
        argv: up to and with the module; ``--state`` and ``--resume`` are added.

    Raises:
        Unavailable: a fork is under way. FailedPrecondition: the new program cannot load the state.
    """
    if len(supervisor.forks):
        raise Unavailable("a process is being started: try again")
    supervisor.forks.drop_spares()
    state = unix.sealed_memfd("supervisor state", encode_state(supervisor))
    arguments = [*argv, "--state", supervisor.places.state, "--resume", str(state)]
    program = f"/proc/self/fd/{executable}"
    _prove(program, arguments, state)
    for fd in (state, *_kept(supervisor)):
        os.set_inheritable(fd, True)
    signal.set_wakeup_fd(-1)
    os.execve(program, arguments, programs.environment())


def encode_state(supervisor: Supervisor) -> bytes:
    """Return what the next program needs to know."""
    children = [
        {"child": asdict(child), "fds": dict(supervisor.children.fds.of(child.id))}
        for child in supervisor.children.after(0)
    ]
    value = {
        "version": VERSION,
        "children": children,
        "listener": supervisor.listener.fileno() if supervisor.listener else -1,
        "logger": supervisor.logger.fileno(),
        "logger_pid": supervisor.logger.pid,
        "lock": supervisor.lock_fd,
    }
    return json.dumps(value).encode()


def decode_state(data: bytes) -> tuple[dict[str, Any], list[tuple[ChildInfo, dict[str, int]]]]:
    """Return (descriptors and pids, children with their descriptors).

    Raises:
        FailedPrecondition: it is of a version that this program does not know.
    """
    value = json.loads(data)
    if value.get("version") != VERSION:
        raise FailedPrecondition(f"supervisor state of version {value.get('version')}; known is {VERSION}")
    children = [
        (protocol.from_fields(ChildInfo, each["child"]), {str(k): int(v) for k, v in each["fds"].items()})
        for each in value["children"]
    ]
    return value, children


def check(state_fd: int) -> None:
    """Load a state and do nothing with it."""
    decode_state(unix.read_fd(state_fd))


def resume(supervisor: Supervisor, state_fd: int) -> None:
    """Go on with an earlier program's state."""
    value, children = decode_state(unix.read_fd(state_fd))
    os.close(state_fd)
    for child, fds in children:
        for fd in fds.values():
            os.set_inheritable(fd, False)
        supervisor.children.restore(child, fds)
    supervisor.lock_fd = value["lock"]
    os.set_inheritable(supervisor.lock_fd, False)
    supervisor.listener = _socket(value["listener"])
    supervisor.logger.pid = value["logger_pid"]
    supervisor.logger.start(None if value["logger"] is None else _socket(value["logger"]))


def _socket(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _kept(supervisor: Supervisor) -> list[int]:
    store = supervisor.children.fds
    fds = [fd for child in supervisor.children.after(0) for fd in store.of(child.id).values()]
    fds.append(supervisor.lock_fd)
    if supervisor.listener is not None:
        fds.append(supervisor.listener.fileno())
    logger = supervisor.logger.fileno()
    return fds if logger is None else [*fds, logger]


def _prove(program: str, arguments: Sequence[str], state: int) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.set_inheritable(state, True)
            os.execve(program, [*arguments, "--check"], programs.environment())
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status:
        raise FailedPrecondition(
            f"the new program cannot go on from here: exit code {os.waitstatus_to_exitcode(status)}"
        )
