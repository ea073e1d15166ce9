"""What programs answer, of libseccomp's making and by hand."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from shim.kernel import process, seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime import seccomp_filter
from shim.runtime.seccomp_answers import allows_an_early_filter, answer
from shim.runtime.seccomp_newer import AUDIT

MACHINE = os.uname().machine
ARCHITECTURE = AUDIT[MACHINE]
EPERM = seccomp.ACT_ERRNO | errno.EPERM
ENOSYS = seccomp.ACT_ERRNO | errno.ENOSYS


def number(name: str) -> int:
    return seccomp.numbers((name,), MACHINE)[name]


def test_rules_are_answered_as_they_are_written() -> None:
    rules = [
        Rule("getpid", EPERM),
        Rule("personality", EPERM, (Comparison(0, 4, 8),)),
    ]
    program = seccomp.compile_rules(seccomp.ACT_ALLOW, rules)
    assert answer(program, ARCHITECTURE, number("getpid")) == EPERM
    assert answer(program, ARCHITECTURE, number("getppid")) == seccomp.ACT_ALLOW
    assert [answer(program, ARCHITECTURE, number("personality"), n) for n in (8, 9, 8 << 32)] == [
        *(EPERM, seccomp.ACT_ALLOW, seccomp.ACT_ALLOW)
    ]


def test_the_default_profile_lets_a_process_fork_but_not_by_clone3() -> None:
    program = seccomp_filter.runtime_default(0).code
    assert answer(program, ARCHITECTURE, number("clone3")) == ENOSYS
    assert answer(program, ARCHITECTURE, number("clone"), process.CLONE_PARENT) == seccomp.ACT_ALLOW
    assert answer(program, ARCHITECTURE, number("clone"), 0x10000000) == EPERM
    assert allows_an_early_filter(program)


@pytest.mark.parametrize("name", ["clone", "sendmsg", "setsid"])
def test_a_profile_that_refuses_what_is_needed(name: str) -> None:
    assert not allows_an_early_filter(seccomp.compile_rules(seccomp.ACT_ALLOW, [Rule(name, EPERM)]))


def test_no_program_allows_all_and_a_strange_one_nothing() -> None:
    assert allows_an_early_filter(b"")
    assert answer(struct.pack("=HBBI", 0x87, 0, 0, 0), ARCHITECTURE, 1) == seccomp.ACT_KILL_PROCESS
    assert answer(struct.pack("=HBBI", 0x20, 0, 0, 0), ARCHITECTURE, 1) == seccomp.ACT_KILL_PROCESS
