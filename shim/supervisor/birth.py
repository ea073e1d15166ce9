"""First stages: forks of the supervisor that wait for a plan, and then carry it out.

A fork of an interpreter, and the pages that its first steps copy, cost more than all the rest of starting a
program. So forks stand ready before anybody asks: each has closed everything, reset its signals, forbidden
imports and decoded a plan for practice. A plan and its descriptors then come over its socket, on which it
also announces the second stage. It is a copy of a supervisor that has never read a plan: it knows of no pod.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from shim.kernel import process, unix
from shim.runtime import init
from shim.supervisor.fdstore import CHILD_NAMES

_PLAN: Final = "plan"
_FAILED: Final = 128
_MAX_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class FirstStage:
    """A fork that waits.

    Attributes:
        fd: our end of its socket.
    """

    pid: int
    fd: int


def fork() -> FirstStage:
    """Fork a first stage; it ends when its socket is closed before it got a plan.

    Raises:
        OSError: no fork.
    """
    ours, theirs = unix.socketpair()
    try:
        unix.tell_senders(ours)
        # Not os.fork: its hooks (of threading, logging, random) make each child copy pages it never uses.
        pid, pidfd = process.clone3(0)
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid == 0:
        _become_child(theirs)
    os.close(pidfd)
    os.close(theirs)
    os.set_blocking(ours, False)
    return FirstStage(pid, ours)


def give(stage: FirstStage, fds: Mapping[str, int]) -> None:
    """Hand a first stage its plan and descriptors; they stay the caller's.

    Raises:
        OSError: it is gone.
    """
    sock = socket.socket(fileno=stage.fd)
    try:
        unix.send_message(sock, " ".join(fds).encode(), tuple(fds.values()))
    finally:
        sock.detach()


def _become_child(fd: int) -> NoReturn:
    try:
        process.set_dumpable(False)
        close_all_but((fd,))
        _reset_signals()
        init.warm()
        with socket.socket(fileno=os.dup(fd)) as sock:
            names, fds = unix.recv_message(sock, _MAX_BYTES, len(CHILD_NAMES))
        if not names:
            os._exit(0)
        given = dict(zip(names.decode().split(" "), fds, strict=True))
        plan = unix.read_fd(given[_PLAN])
        os.close(given.pop(_PLAN))
        init.run(plan, {**given, "announce": fd})
    finally:
        os._exit(_FAILED)


def _reset_signals() -> None:
    """What is ignored stays so over execve, and what is handled here must not be between now and then."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but those in ``keep``, and but 0, 1 and 2, which the child replaces."""
    first = 3
    for fd in sorted(keep):
        if fd > first:
            process.close_range(first, fd - 1)
        first = max(first, fd + 1)
    process.close_range(first)
