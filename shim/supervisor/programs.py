"""Start this package's own programs by the running interpreter, with nothing inherited but one socket."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from shim.kernel import process

# The binary that runs now: a sealed memory file if the daemon made one, which no container can write.
EXECUTABLE: Final = "/proc/self/exe"


def argv_of(module: str, *arguments: str) -> list[str]:
    """Return the arguments that run a module; argv[0] is what leads Python to its virtual environment."""
    return [sys.executable, "-I", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return what a program of ours gets of the environment: nothing that a secret could be in."""
    return {"LC_ALL": "C.UTF-8", "PATH": os.defpath}


def spawn(module: str, arguments: Sequence[str], fd: int) -> int:
    """Start a module in a session of its own; it finds ``fd`` as descriptor 3. Return its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, 3)]
    if fd == 3:
        os.set_inheritable(fd, True)
        actions = []
    return os.posix_spawn(
        EXECUTABLE,
        argv_of(module, *arguments),
        environment(),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
    )


def settle(name: str) -> None:
    """Become a process that ends when it is told to, not when somebody signals its session."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    process.set_name(name)
