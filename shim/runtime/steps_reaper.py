"""The first process of a pod's PID namespace: it reaps what its containers leave behind, and does no more.

Every container of the pod can look at it, so it has nothing to be taken: an empty read-only root, no
descriptors, no capabilities, no names, a program of a few instructions, and a filter that leaves it the one
system call of its loop. Where the node lets no program be executed from memory it stays a fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from shim.kernel import capabilities, mount, process, seccomp, unix
from shim.runtime import reaper_program
from shim.runtime.context import Context
from shim.runtime.steps import Step, step
from shim.runtime.steps_labels import label_file


@step
@dataclass(frozen=True, slots=True)
class EnterEmptyRoot(Step):
    """Leave every file behind. Runs in: stage 2 of an init, in a mount namespace of its own.

    Attributes:
        label: of the pod's mounts, where the node has SELinux.
    """

    label: str = ""
    SAYS: ClassVar = "enter an empty root"

    def execute(self, context: Context) -> None:
        """Pivot into an empty read-only file system; the host's is detached."""
        attributes = (
            mount.MOUNT_ATTR_RDONLY
            | mount.MOUNT_ATTR_NOSUID
            | mount.MOUNT_ATTR_NODEV
            | mount.MOUNT_ATTR_NOEXEC
        )
        _keep_program(context, self.label)
        options = ("size=0k", "mode=555", *mount.context_options(self.label))
        tree = mount.new_mount("tmpfs", "empty", options, attributes)
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
        capabilities.drop_bounding(0)
        os.setgroups(())
        process.set_no_new_privs()
        capabilities.set_process(0, 0, 0)
        gc.disable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        program = context.kept.pop("program", -1)
        if program > 0:
            process.close_range(0, program - 1)
        process.close_range(program + 1)
        seccomp.load(bytes.fromhex(self.seccomp))
        with contextlib.suppress(OSError):
            os.execve(program, ["init"], {})  # noqa: S606  # that is the point
        while True:
            signal.pause()


def _keep_program(context: Context, label: str) -> None:
    """Have the program in a memory file that nobody can read, so that execve keeps the process undumpable.

    What is open for writing cannot be executed: it is opened again by its path, as long as there is a /proc.
    """
    image = reaper_program.for_machine(os.uname().machine)
    if image is None:
        return
    fd = unix.sealed_memfd("init", image)
    if label:  # of what containers may be: some policies let them be no file of memory
        label_file(context, fd, label, "the program of the pod's init")
    os.fchmod(fd, 0o111)
    context.keep("program", os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC))
    os.close(fd)
