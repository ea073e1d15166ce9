"""How a process ended: from wait status to exit record, and the ways to learn it of one that is no child."""

from __future__ import annotations

import os
import time
from typing import Final

from shim.kernel import proc, process
from shim.model.container import ExitRecord

UNKNOWN_EXIT_CODE: Final = 255
_SIGNAL_BASE: Final = 128


def record_of(id_: str, pid: int, status: int | None, oom_kills: int, source: str) -> ExitRecord:
    """Return the record of an end that is seen now.

    Args:
        id_: of the child.
        pid: in the host's pid namespace.
        status: wait status as in wait(2); None: nobody knows it.
        oom_kills: how often the OOM killer struck in its cgroup.
        source: as ExitRecord has it; ``unknown`` where there is no status.
    """
    now_ns = time.time_ns()
    if status is None:
        return ExitRecord(id_, pid, UNKNOWN_EXIT_CODE, 0, oom_kills, now_ns, "unknown")
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = _SIGNAL_BASE + number if number else os.WEXITSTATUS(status)
    return ExitRecord(id_, pid, code, number, oom_kills, now_ns, source)


def status_of_child(pidfd: int) -> int | None:
    """Return the wait status of a child that ended, and leave it a zombie; None while it runs.

    Raises:
        ChildProcessError: it is no child of this process.
    """
    info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    if info.si_code == os.CLD_EXITED:
        return info.si_status << 8
    return int(info.si_status)


def status_of_stranger(pidfd: int, pid: int, start_time: int) -> tuple[int | None, str]:
    """Return (wait status, source) of a process that ended and that somebody else reaps.

    First a zombie's /proc/PID/stat, checked by its start time since pids are used again; then what the kernel
    keeps for holders of a pidfd (Linux 6.15), which it has once the process was reaped.
    """
    status = proc.exit_status_of_zombie(pid)
    try:
        same = proc.start_time(pid) == start_time
    except OSError:
        same = False
    if same and status is not None:
        return status, "stat"
    status = process.pidfd_exit_status(pidfd)
    return status, "pidfd" if status is not None else "unknown"
