"""What the kernel makes of compiled profiles: each is loaded in a forked child, which then makes calls."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.kernel import libc, process, seccomp
from shim.runtime import seccomp_filter
from shim.runtime.seccomp_filter import Program

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")

SOCKET, GETPID, MKDIR, KCMP = 41, 39, 83, 312
FCHMODAT2, FILE_GETATTR, FUTURE = 452, 468, 900


def call(number: int, *arguments: int) -> int:
    """Return the errno of a system call, 0 if it was let through and done."""
    words = [ctypes.c_long(argument) for argument in arguments]
    result = libc.libc.syscall(ctypes.c_long(number), *words)
    return 0 if result >= 0 else ctypes.get_errno()


def under(program: Program, body: Callable[[], int]) -> int:
    """Return what ``body`` returns under a filter, or the number of the signal that it died by, below 0."""
    reader, writer = os.pipe()
    pid, pidfd = process.clone3(0)
    if pid == 0:
        process.set_no_new_privs()
        seccomp.load(program.code, program.flags)
        os.write(writer, b"%d" % body())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 16)
    os.close(reader)
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return int(answer) if code == 0 else code


def profile(**value: Any) -> Program:
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW"} | value).encode()
    return seccomp_filter.from_json(text, 0)


def rule(action: str, **value: Any) -> Program:
    return profile(syscalls=[{"names": ["getpid"], "action": action} | value])


@pytest.mark.parametrize(
    ("action", "number", "answer"),
    [
        ("SCMP_ACT_ALLOW", None, 0),
        ("SCMP_ACT_LOG", None, 0),
        ("SCMP_ACT_ERRNO", None, errno.EPERM),
        ("SCMP_ACT_ERRNO", 99, 99),
        ("SCMP_ACT_TRACE", 1, errno.ENOSYS),  # nobody traces
        ("SCMP_ACT_TRAP", None, -signal.SIGSYS),
        ("SCMP_ACT_KILL", None, -signal.SIGSYS),
        ("SCMP_ACT_KILL_THREAD", None, -signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", None, -signal.SIGSYS),
    ],
)
def test_actions(action: str, number: int | None, answer: int) -> None:
    assert under(rule(action, errnoRet=number), lambda: call(GETPID)) == answer


@pytest.mark.parametrize(
    ("operator", "value", "second", "denied"),
    [
        ("SCMP_CMP_NE", 5, 0, {4, 6, 2**32 + 5}),
        ("SCMP_CMP_LT", 5, 0, {4}),
        ("SCMP_CMP_LE", 5, 0, {4, 5}),
        ("SCMP_CMP_EQ", 5, 0, {5}),
        ("SCMP_CMP_GE", 5, 0, {5, 6, 2**32 + 5}),
        ("SCMP_CMP_GT", 5, 0, {6, 2**32 + 5}),
        ("SCMP_CMP_MASKED_EQ", 4, 4, {4, 5, 6, 2**32 + 5}),
    ],
)
def test_operators(operator: str, value: int, second: int, denied: set[int]) -> None:
    argument = {"index": 1, "value": value, "valueTwo": second, "op": operator}
    program = rule("SCMP_ACT_ERRNO", args=[argument])
    for number in (3, 4, 5, 6, 2**32 + 5):
        if operator == "SCMP_CMP_MASKED_EQ" or number != 3:
            answer = under(program, lambda number=number: call(GETPID, 0, number))
            assert (answer == errno.EPERM) == (number in denied), number


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        (1, 0),
        (2, 0),
        (16, None),
        (38, errno.EPERM),
        (40, errno.EPERM),
        (45, None),
        (2**32 + 40, errno.EPERM),
        (2**32 + 38, errno.EPERM),
    ],
)
def test_no_socket_leads_past_the_network_namespace(family: int, answer: int | None) -> None:
    found = under(seccomp_filter.runtime_default(0), lambda: call(SOCKET, family, 1, 0))
    assert found == answer if answer is not None else found != errno.EPERM


def test_a_call_that_is_too_new_is_not_there() -> None:
    """The C library falls back to an older one only then."""
    default = seccomp_filter.runtime_default(0)
    assert under(default, lambda: call(FUTURE)) == errno.ENOSYS
    assert under(default, lambda: call(FILE_GETATTR)) == errno.ENOSYS
    assert under(default, lambda: call(FCHMODAT2)) != errno.EPERM  # the kernel may be older
    assert under(default, lambda: call(KCMP)) == errno.EPERM
    strict = profile(
        defaultAction="SCMP_ACT_KILL", syscalls=[{"names": ["kcmp"], "action": "SCMP_ACT_ALLOW"}]
    )
    assert strict.code


@pytest.mark.root
def test_denials_can_be_counted() -> None:
    if Path("/proc/sys/kernel/seccomp/actions_logged").read_text().find("errno") < 0:
        pytest.skip("this kernel is set not to log errno")
    program = rule("SCMP_ACT_ERRNO", errnoRet=77)
    loud = Program(program.code, program.flags | seccomp.FLAG_LOG)
    with open("/dev/kmsg", "rb", buffering=0) as log:
        os.set_blocking(log.fileno(), False)
        os.lseek(log.fileno(), 0, os.SEEK_END)
        assert under(program, lambda: call(GETPID)) == 77
        quiet = records(log.fileno())
        assert under(loud, lambda: call(GETPID)) == 77
        noisy = records(log.fileno())
    if not noisy:
        pytest.skip("this kernel's audit goes to a daemon or nowhere")
    assert (len(quiet), len(noisy)) == (0, 1)


def records(fd: int) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(os.read(fd, 8192))
        except BlockingIOError:
            return [each for each in found if b"type=1326" in each and b"syscall=39" in each]
