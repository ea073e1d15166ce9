"""Processes: clone3, pidfds, prctl, session keyring."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from typing import Final

from shim.errors import KernelError
from shim.kernel import libc, proc

CLONE_FILES: Final = 0x400
CLONE_PIDFD: Final = 0x1000
CLONE_PARENT: Final = 0x8000
CLONE_INTO_CGROUP: Final = 0x200000000

_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NAME: Final = 15
_PR_GET_SECUREBITS: Final = 27
_PR_SET_SECUREBITS: Final = 28
_PR_SET_TIMERSLACK: Final = 29
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_THP_DISABLE: Final = 41
_TIMER_SLACK_NS: Final = 50_000  # of the first process of every machine
_IOPRIO_WHO_PROCESS: Final = 1
_SIGACTION_BYTES: Final = 32
_SIGSET_BYTES: Final = 8
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1

_PIDFD_INFO_EXIT: Final = 1 << 3
_PIDFD_GET_INFO: Final = 0xC000FF0B | (64 << 16)  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


class _PidfdInfo(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint64),
        ("cgroupid", ctypes.c_uint64),
        *(
            (name, ctypes.c_uint32)
            for name in ("pid", "tgid", "ppid", "ruid", "rgid", "euid", "egid", "suid")
        ),
        *((name, ctypes.c_uint32) for name in ("sgid", "fsuid", "fsgid")),
        ("exit_code", ctypes.c_int32),
    )


def clone3(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork, as clone3(2) does: return (pid, pidfd) in the parent and (0, -1) in the child.

    The interpreter must have one thread: its locks are copied as they are. With CLONE_PARENT the exit signal
    is the parent's own.

    Args:
        flags: CLONE_* bits; CLONE_PIDFD is always added.
        cgroup_fd: the child starts in this cgroup2 directory (CLONE_INTO_CGROUP).
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs()
    args.flags = flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd is not None else 0)
    args.pidfd = ctypes.addressof(pidfd)
    args.exit_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    args.cgroup = cgroup_fd if cgroup_fd is not None else 0
    pid = libc.syscall_locked(libc.SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    libc.check(pid, "clone3")
    return (0, -1) if pid == 0 else (pid, pidfd.value)


def clone(flags: int) -> tuple[int, int]:
    """Fork by the older call, which seccomp profiles allow where they do not know what to make of clone3.

    Args:
        flags: CLONE_* bits; CLONE_PIDFD is always added.

    Returns:
        As ``clone3``.
    """
    pidfd = ctypes.c_int(-1)
    whole = flags | CLONE_PIDFD | (0 if flags & CLONE_PARENT else signal.SIGCHLD)
    # The third argument is where the pidfd goes, on every machine; after it machines differ.
    pid = libc.syscall_locked(libc.SYS_CLONE, whole, 0, ctypes.byref(pidfd), 0, 0)
    libc.check(pid, "clone")
    return (0, -1) if pid == 0 else (pid, pidfd.value)


def pidfd_open(pid: int) -> int:
    """Return a pidfd (pidfd_open(2)); close-on-exec, as the kernel makes it."""
    return libc.check(libc.syscall(libc.SYS_PIDFD_OPEN, pid, 0), "pidfd_open", f"pid {pid}")


def hold(pid: int, start_time: int) -> int | None:
    """Return a pidfd of exactly this process; None if it is gone, or the pid is another's by now.

    The pidfd is opened first and the start time read after: from then on the pid cannot come to mean another.

    Args:
        pid: in the host's pid namespace.
        start_time: field 22 of /proc/PID/stat (``proc.start_time``).
    """
    try:
        pidfd = pidfd_open(pid)
    except KernelError as error:
        if error.errno == errno.ESRCH:
            return None
        raise
    try:
        same = proc.start_time(pid) == start_time
    except (ProcessLookupError, FileNotFoundError):
        same = False
    if not same:
        os.close(pidfd)
        return None
    return pidfd


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to the process that a pidfd holds, and to no other."""
    libc.check(libc.syscall(libc.SYS_PIDFD_SEND_SIGNAL, pidfd, number, None, 0), "pidfd_send_signal")


def pidfd_exit_status(pidfd: int) -> int | None:
    """Return the wait status of a process that somebody else reaped; None if the kernel cannot tell (yet).

    Source: kernel 6.15, include/uapi/linux/pidfd.h, PIDFD_GET_INFO with PIDFD_INFO_EXIT.
    """
    info = _PidfdInfo(mask=_PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ESRCH):
            return None
        raise KernelError("ioctl PIDFD_GET_INFO", error.errno or 0) from None
    return int(info.exit_code) if info.mask & _PIDFD_INFO_EXIT else None


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from ``first`` to ``last``."""
    libc.check(libc.syscall(libc.SYS_CLOSE_RANGE, first, last, 0), "close_range")


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(dumpable: bool) -> None:
    """Let others of the same user look into this process, or not; execve sets it back."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """Gain no privileges by execve from now on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def reset_securebits() -> None:
    """Treat root as it is by default (capabilities(7)); whoever started the daemon may have set it otherwise.

    Raises:
        KernelError: they are locked.
    """
    zero = ctypes.c_ulong(0)
    if libc.libc.prctl(_PR_GET_SECUREBITS, zero, zero, zero, zero):
        _prctl(_PR_SET_SECUREBITS, 0)


def reset_scheduling() -> None:
    """Give this process the scheduling class, I/O priority, timer slack and personality of a fresh one.

    A service manager may have started the daemon with others, and execve keeps them. What the kernel was
    built without stays.
    """
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    libc.syscall(libc.SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, 0)
    libc.libc.personality(ctypes.c_ulong(0))
    zero = ctypes.c_ulong(0)
    for option, value in ((_PR_SET_TIMERSLACK, _TIMER_SLACK_NS), (_PR_SET_THP_DISABLE, 0)):
        libc.libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero)


def reset_signal(number: int) -> None:
    """Give a signal its default disposition, also 32 and 33, which the C library keeps to itself."""
    default = bytes(_SIGACTION_BYTES)
    result = libc.syscall(libc.SYS_RT_SIGACTION, number, default, None, _SIGSET_BYTES)
    libc.check(result, "rt_sigaction", f"signal {number}")


def set_keep_capabilities(keep: bool) -> None:
    """Keep the permitted set when the user id changes from 0."""
    _prctl(_PR_SET_KEEPCAPS, int(keep))


def set_name(name: str) -> None:
    """Set the name that ps shows; 15 bytes count."""
    result = libc.libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)
    libc.check(result, "prctl PR_SET_NAME")


def new_session_keyring(name: str) -> None:
    """Join a new session keyring, so that keys of the host's session are out of reach (keyctl(2))."""
    result = libc.syscall(libc.SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name), 0, 0, 0)
    libc.check(result, "keyctl", name)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    libc.check(libc.libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")
