import ctypes
import os
import signal

import pytest

from shim.kernel import libc, process


def test_a_child_is_known_by_pid_and_pidfd() -> None:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        signal.pause()
    try:
        process.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    finally:
        os.close(pidfd)


def test_a_child_runs_on_in_python() -> None:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        os._exit(sum(range(10)))
    os.close(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 45


def test_close_range_closes_everything_above() -> None:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        fd = os.dup(0)
        process.close_range(3)
        try:
            os.fstat(fd)
        except OSError:
            os._exit(0)
        os._exit(1)
    os.close(pidfd)
    assert os.waitpid(pid, 0)[1] == 0


def test_the_end_of_a_reaped_process_is_told_by_its_pidfd() -> None:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        os._exit(3)
    try:
        os.waitpid(pid, 0)
        status = process.pidfd_exit_status(pidfd)
        assert status is None or os.waitstatus_to_exitcode(status) == 3  # None: a kernel before 6.15
    finally:
        os.close(pidfd)


@pytest.mark.root
def test_securebits_are_as_they_are_by_default() -> None:
    no_root, get, set_ = 1, 27, 28
    zero = ctypes.c_ulong(0)
    pid, pidfd = process.clone3(0)
    if pid == 0:
        libc.libc.prctl(set_, ctypes.c_ulong(no_root), zero, zero, zero)
        before = libc.libc.prctl(get, zero, zero, zero, zero)
        process.reset_securebits()
        os._exit(0 if (before, libc.libc.prctl(get, zero, zero, zero, zero)) == (no_root, 0) else 1)
    os.close(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
