"""The daemon starts a supervisor: a fresh interpreter, from a binary that nobody can write.

A container that gets hold of ``/proc/<pid>/exe`` of a process of ours must not be able to write it
(CVE-2019-5736), so the interpreter runs from a sealed memory file, made once for each daemon. argv[0] leads
it to its virtual environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final

from shim.errors import KernelError, Unavailable
from shim.kernel import unix
from shim.supervisor import programs

MODULE: Final = "shim.supervisor.main"


def sealed_interpreter() -> int:
    """Return a descriptor of a sealed copy of the interpreter that runs now."""
    with open(programs.EXECUTABLE, "rb") as file:
        return unix.sealed_memfd("cri-shim python", file.read())


def start(state: str, executable: int) -> None:
    """Start a supervisor for a state directory, and reap what was started once it has ended.

    Args:
        state: its directory.
        executable: of ``sealed_interpreter``.

    Raises:
        KernelError: it cannot be started.
    """
    try:
        pid = os.posix_spawn(
            f"/proc/self/fd/{executable}",
            programs.argv_of(MODULE, "--state", state),
            programs.environment(),
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
            setsid=True,
            setsigmask=(),
            setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
        )
    except OSError as error:
        raise KernelError("posix_spawn", error.errno or 0, sys.executable) from error
    _reap_later(pid)


def _reap_later(pid: int) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        os.waitpid(pid, os.WNOHANG)

    loop.add_reader(pidfd, ended)


class GiveUp:
    """Counts tries until there is no use in another."""

    def __init__(self, timeout_s: float) -> None:
        self._until = asyncio.get_running_loop().time() + timeout_s

    def check(self, what: str) -> None:
        """Go on, or not.

        Raises:
            Unavailable: the time is over.
        """
        if asyncio.get_running_loop().time() > self._until:
            raise Unavailable(what)
