"""Labels of security modules: steps by which a process gets one at its execve, and those of files of ours."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar

from shim.errors import FailedPrecondition, KernelError
from shim.kernel import files, lsm
from shim.runtime.context import Context
from shim.runtime.steps import Step, step


@step
@dataclass(frozen=True, slots=True)
class KeepProc(Step):
    """Open the node's /proc. Runs in: stage 1, before anything of the container's is mounted or joined."""

    SAYS: ClassVar = "open the node's /proc"

    def execute(self, context: Context) -> None:
        """Keep it for the second stage alone: nobody may write a label of another process."""
        context.keep("proc", lsm.open_proc())


@step
@dataclass(frozen=True, slots=True)
class OpenLabels(Step):
    """Open what labels are written to. Runs in: stage 2, before all else, so that /proc can be closed again.

    Attributes:
        candidates: for each label, files below /proc/thread-self; the first that exists counts.
    """

    candidates: tuple[tuple[str, ...], ...]
    SAYS: ClassVar = "open the process's security attributes"

    def execute(self, context: Context) -> None:
        """Keep a descriptor for each label."""
        proc_fd = context.take("proc")
        for number, candidates in enumerate(self.candidates):
            context.keep(f"label {number}", lsm.open_attribute(proc_fd, candidates))
        os.close(proc_fd)


@step
@dataclass(frozen=True, slots=True)
class WriteLabels(Step):
    """Ask for labels at the next execve; before no_new_privs, which would forbid some of them."""

    texts: tuple[str, ...]

    def describe(self) -> str:
        """Name them."""
        return "become " + ", ".join(self.texts)

    def execute(self, context: Context) -> None:
        """Write each in one go, as the kernel wants it."""
        for number, text in enumerate(self.texts):
            fd = context.take(f"label {number}")
            try:
                os.write(fd, os.fsencode(text))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise FailedPrecondition(f"{text!r} is not known to the kernel any more") from None
                raise KernelError("write", error.errno or errno.EIO, text) from None
            finally:
                os.close(fd)


def label_file(context: Context, fd: int, label: str, what: str) -> None:
    """Give a file of ours a label of SELinux; where the policy does not let us, that is told as a warning."""
    try:
        files.set_label(fd, label)
    except KernelError as error:
        context.warn(f"{what} does not get the label {label}: {error}")
