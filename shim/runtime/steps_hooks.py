"""Steps that run hooks: programs of the node that finish what a container gets, before it enters its root.

A hook is a child of the first stage. One of the container (``createContainer``) is run in the namespaces that
this has entered, but for the PID namespace, and with the node's root still as its root; one of the runtime
(``prestart``, ``createRuntime``) goes back to the node's namespaces before. Either finds, as the OCI runtime
specification has it, the state of the container on its standard input, and in the directory that this names
a ``config.json``, which lies there only as long as hooks run: it has the container's environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from dataclasses import dataclass
from typing import ClassVar, Final, NoReturn

from shim.errors import FailedPrecondition
from shim.kernel import files, namespaces, process
from shim.model.edits import CREATE_CONTAINER
from shim.runtime.context import Context
from shim.runtime.steps import Step, step

_HOST_KINDS: Final = ("net", "ipc", "uts", "mnt")  # to join the last makes the node's root the root again
_CONFIG: Final = "config.json"
_CANNOT_EXECUTE: Final = 127
_SHOWN_BYTES: Final = 500


@step
@dataclass(frozen=True, slots=True)
class HoldHost(Step):
    """Open the namespaces of the node, for hooks that are run in them later."""

    SAYS: ClassVar = "open the node's namespaces"

    def execute(self, context: Context) -> None:
        """Keep a descriptor for each kind that the first stage is going to leave."""
        for kind in _HOST_KINDS:
            context.keep(f"host {kind}", os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))


@step
@dataclass(frozen=True, slots=True)
class RunHooks(Step):
    """Run hooks one after the other. Runs in: stage 1, before it leaves the node's root and PID namespace.

    Attributes:
        hooks: tuples of (moment, path, arguments, environment, seconds that it may take or 0).
        bundle: a directory of this container alone, in which ``config.json`` is made and removed.
        config: content of that file.
        state: JSON object that each gets, but for the pid.
    """

    hooks: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...], int], ...]
    bundle: str
    config: str
    state: str
    SAYS: ClassVar = "run the hooks"

    def execute(self, context: Context) -> None:
        """Run each; the first that fails ends the start."""
        host = [
            (kind, context.take(f"host {kind}")) for kind in _HOST_KINDS if f"host {kind}" in context.kept
        ]
        state = json.dumps({**json.loads(self.state), "pid": os.getpid()}).encode()
        path = os.path.join(self.bundle, _CONFIG)
        try:
            _write(path, self.config.encode())
            for moment, program, args, env, timeout_s in self.hooks:
                context.stage = f"run the {moment} hook {program}"
                home = [] if moment == CREATE_CONTAINER else host
                self._run(_Program(program, args, env), state, home, timeout_s)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            for _, fd in host:
                os.close(fd)

    def _run(self, program: _Program, state: bytes, home: list[tuple[str, int]], timeout_s: int) -> None:
        given, told = _memory("state", state), _memory("output", b"")
        try:
            pid, pidfd = process.clone3(0)
            if pid == 0:
                program.become(self.bundle, home, given, told)
            in_time = _wait(pidfd, timeout_s)
            if not in_time:
                process.pidfd_send_signal(pidfd, signal.SIGKILL)
            status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
            if not in_time:
                raise FailedPrecondition(f"it took longer than {timeout_s} s and was killed")
            if status is not None and status.si_status:
                how = "exit code" if status.si_code == os.CLD_EXITED else "signal"
                raise FailedPrecondition(f"it ended with {how} {status.si_status}: {_tail(told)}")
        finally:
            os.close(given)
            os.close(told)


@dataclass(frozen=True, slots=True)
class _Program:
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]

    def become(self, directory: str, home: list[tuple[str, int]], given: int, told: int) -> NoReturn:
        """Runs in: a fork of stage 1."""
        try:
            for number, fd in ((0, given), (1, told), (2, told)):
                os.dup2(fd, number)
            os.setsid()
            for kind, fd in home:
                namespaces.setns(fd, namespaces.KINDS[kind], f"{kind} namespace of the node")
            os.chdir(directory)
            os.execve(self.path, self.args, dict(entry.split("=", 1) for entry in self.env))
        except OSError as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(_CANNOT_EXECUTE)


def _wait(pidfd: int, timeout_s: int) -> bool:
    """Return whether a process ended in time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000 if timeout_s else None))


def _memory(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    files.write_all(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _tail(fd: int) -> str:
    size = os.fstat(fd).st_size
    return (
        os.pread(fd, _SHOWN_BYTES, max(size - _SHOWN_BYTES, 0)).decode(errors="replace").strip()
        or "no output"
    )


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        files.write_all(fd, content)
    finally:
        os.close(fd)
