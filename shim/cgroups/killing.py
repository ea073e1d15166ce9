"""Kill everything in a cgroup: by ``cgroup.kill`` (Linux 5.14), else process by process."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Final

from shim.cgroups import tree
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import KernelError, Unavailable
from shim.kernel import cgroupfs, process

_KILL_S: Final = 5.0


def kill(h: Hierarchy, path: str) -> None:
    """Kill every process in and below a cgroup. Idempotent; does not wait for them to be reaped.

    Raises:
        Unavailable: new ones appeared faster than they could be killed. KernelError: the kernel refuses.
    """
    kill_directory(h.unified + path)
    thaw(h, path)


def thaw(h: Hierarchy, path: str) -> None:
    """Thaw a cgroup and those below it: a process that version 1 keeps frozen does not die. Idempotent.

    Nobody here freezes any, but a container that may write its cgroup can.
    """
    top = h.directory("freezer", path) if h.v1 else None
    if top is None:
        return
    for each in tree.descendants(top):
        try:
            cgroupfs.write(os.path.join(each, "freezer.state"), "THAWED")
        except KernelError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise


def kill_directory(directory: str) -> None:
    """Do as ``kill``, by the path of a cgroup2 directory, such as one in /proc/self/fd."""
    try:
        cgroupfs.write(os.path.join(directory, "cgroup.kill"), "1")
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        if os.path.isdir(directory):
            _kill_each(directory)


def _kill_each(directory: str) -> None:
    """Until none is left: each may have forked while we looked."""
    deadline = time.monotonic() + _KILL_S
    while alive := [(each, pid) for each in tree.descendants(directory) for pid in _pids(each)]:
        if time.monotonic() > deadline:
            raise Unavailable(f"cannot kill all processes in {directory}: {len(alive)} are left")
        for each, pid in alive:
            _kill_one(each, pid)
        time.sleep(0.005)


def _kill_one(directory: str, pid: int) -> None:
    try:
        pidfd = process.pidfd_open(pid)
        try:
            # The pid may have been used again before the descriptor was opened, not after.
            if pid in _pids(directory):
                process.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
    except KernelError as error:
        if error.errno != errno.ESRCH:  # it ended by itself
            raise


def _pids(directory: str) -> list[int]:
    try:
        text = cgroupfs.read(os.path.join(directory, "cgroup.procs"))
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise
    return [int(line) for line in text.split()]
