"""The fork of an init child: what the supervisor's copy does before it carries out its plan.

The child keeps the descriptors of its plan and none else, and none of the supervisor's signal settings. The
plan's memory file is read here, in the child, so that no fork carries another pod's environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from typing import Final, NoReturn

from shim.kernel import process, unix
from shim.runtime import init

_PLAN: Final = "plan"
# 32 and 33 belong to the C library.
_RESET: Final = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
_FAILED: Final = 128


def fork(fds: Mapping[str, int]) -> tuple[int, int]:
    """Fork a child that carries out a plan.

    Args:
        fds: ``plan``, ``sync`` and what else the plan wants; they stay the caller's.

    Returns:
        (pid of the first stage, the socket on which it announces the second).
    """
    ours, theirs = unix.socketpair()
    pid = os.fork()
    if pid == 0:
        _become_child({**fds, "announce": theirs})
    os.close(theirs)
    return pid, ours


def _become_child(fds: Mapping[str, int]) -> NoReturn:
    try:
        process.set_dumpable(False)
        close_all_but(fds.values())
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        plan = unix.read_fd(fds[_PLAN])
        os.close(fds[_PLAN])
        init.run(plan, {name: fd for name, fd in fds.items() if name != _PLAN})
    finally:
        os._exit(_FAILED)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but those in ``keep``, and but 0, 1 and 2, which the child replaces."""
    first = 3
    for fd in sorted(keep):
        if fd > first:
            process.close_range(first, fd - 1)
        first = max(first, fd + 1)
    process.close_range(first)
