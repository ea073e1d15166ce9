"""The first process of a pod's PID namespace: it reaps what its containers leave behind, and does no more.

It is a fork of the supervisor that never executes a program. Every container of the pod can look at it, so it
has nothing to be taken: an empty read-only root, no descriptors, no capabilities, no names, and a filter that
leaves it the few system calls of its loop.
"""

from __future__ import annotations

import gc
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from shim.kernel import capabilities, mount, process, seccomp
from shim.runtime.context import Context
from shim.runtime.steps import Step, step


@step
@dataclass(frozen=True, slots=True)
class EnterEmptyRoot(Step):
    """Leave every file behind. Runs in: stage 2 of an init, in a mount namespace of its own."""

    SAYS: ClassVar = "enter an empty root"

    def execute(self, context: Context) -> None:
        """Pivot into an empty read-only file system; the host's is detached."""
        attributes = (
            mount.MOUNT_ATTR_RDONLY
            | mount.MOUNT_ATTR_NOSUID
            | mount.MOUNT_ATTR_NODEV
            | mount.MOUNT_ATTR_NOEXEC
        )
        tree = mount.new_mount("tmpfs", "empty", ("size=0k", "mode=555"), attributes)
        mount.move_mount(tree, "", mount.AT_FDCWD, "/proc", mount.MOVE_MOUNT_F_EMPTY_PATH)
        os.fchdir(tree)
        mount.pivot_root(".", ".")
        mount.umount(".", mount.MNT_DETACH)
        os.chdir("/")
        os.close(tree)


@step
@dataclass(frozen=True, slots=True)
class ReapForEver(Step):
    """Give up everything, then reap.

    Attributes:
        seccomp: hexadecimal BPF program.
    """

    seccomp: str
    SAYS: ClassVar = "reap orphans"

    def execute(self, context: Context) -> None:
        """Return never: the namespace ends with this process, by SIGKILL.

        The end of the sync socket, closed with all others, tells the daemon that it is ready. From then on
        nothing may fail: there is nobody to tell.
        """
        process.set_name("init")
        os.setsid()
        stops = {signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        capabilities.drop_bounding(0)
        os.setgroups(())
        process.set_no_new_privs()
        capabilities.set_process(0, 0, 0)
        gc.disable()
        process.close_range(0)
        seccomp.load(bytes.fromhex(self.seccomp))
        while True:
            signal.sigwait(stops)
            _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
