"""The standard streams of a process that is about to be started, as descriptors with owners."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from shim.supervisor import fdstore


@dataclass(frozen=True, slots=True)
class Stdio:
    """Which streams a process gets.

    Attributes:
        stdin, stdout, stderr: each a pipe; else /dev/null.
        tty: its plan opens a terminal, so none of the above.
        uid, gid: who owns the pipes, so that /dev/stdout can be opened.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False
    uid: int = 0
    gid: int = 0


NO_STREAMS: Final = Stdio(stdout=False, stderr=False)


class Streams:
    """The descriptors of both sides.

    Attributes:
        childs: for the process: ``stdin``, ``stdout``, ``stderr``; none with a terminal.
        kept: our ends, if they are for the supervisor: ``stdin_write``, ``stdout_read``, ``stderr_read``.
        ours: our ends, if they are for the caller: ``stdin``, ``stdout``, ``stderr``.

    Args:
        stdio: what is wanted.
        carries_over: our ends are the supervisor's (a container); else the caller's (an exec).
    """

    def __init__(self, stdio: Stdio, *, carries_over: bool) -> None:
        self.childs: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.ours: dict[str, int] = {}
        if stdio.tty:
            return
        try:
            for name, piped in (("stdin", stdio.stdin), ("stdout", stdio.stdout), ("stderr", stdio.stderr)):
                if not piped:
                    self.childs[name] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                    continue
                reader, writer = os.pipe2(os.O_CLOEXEC)
                child, our = (reader, writer) if name == "stdin" else (writer, reader)
                self.childs[name] = child
                if carries_over:
                    self.kept["stdin_write" if name == "stdin" else f"{name}_read"] = our
                else:
                    self.ours[name] = our
                if stdio.uid or stdio.gid:
                    os.fchown(child, stdio.uid, stdio.gid)
        except BaseException:
            self.close_childs()
            fdstore.close_all([*self.kept.values(), *self.ours.values()])
            raise

    def close_childs(self) -> None:
        """Close the process's ends here: it has its own."""
        fdstore.close_all(self.childs.values())
        self.childs.clear()
