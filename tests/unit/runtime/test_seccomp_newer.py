"""The instructions before libseccomp's program, run by a few lines that do what the kernel does with them."""

from __future__ import annotations

import errno
import struct

from shim.kernel import seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime.seccomp_newer import Beyond, encode, plan

X86_64, X86, OTHER = 0xC000003E, 0x40000003, 0x1234
NOT_THERE = seccomp.ACT_ERRNO | errno.ENOSYS
EPERM = seccomp.ACT_ERRNO | errno.EPERM


def run(code: bytes, number: int, architecture: int) -> int | None:
    """Return what the program answers; None if it leads on to what stands behind it."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    at, loaded = 0, 0
    while at < len(instructions):
        operation, if_so, if_not, value = instructions[at]
        at += 1
        if operation == 0x20:
            loaded = {0: number, 4: architecture}[value]
        elif operation == 0x06:
            return int(value)
        elif operation == 0x05:
            at += value
        else:
            true = {0x15: loaded == value, 0x25: loaded > value, 0x35: loaded >= value}[operation]
            at += if_so if true else if_not
    assert at == len(instructions)
    return None


def test_each_architecture_has_an_end_of_its_own() -> None:
    code = encode(
        {
            "x86_64": Beyond(300, {452: seccomp.ACT_ALLOW, 460: EPERM}, NOT_THERE),
            "x32": Beyond(1, {}, EPERM),
            "x86": Beyond(400, {}, NOT_THERE),
        }
    )
    assert [run(code, n, X86_64) for n in (0, 300, 301, 451, 452, 460, 500)] == [
        *(None, None, NOT_THERE, NOT_THERE, seccomp.ACT_ALLOW, EPERM, NOT_THERE)
    ]
    assert run(code, 0x40000000 | 452, X86_64) is None  # x32 is left to libseccomp
    assert [run(code, n, X86) for n in (301, 400, 452)] == [None, None, NOT_THERE]
    assert run(code, 452, OTHER) is None


def test_nothing_is_added_for_what_is_not_known() -> None:
    assert encode({}) == b""
    assert encode({"vax": Beyond(1, {}, NOT_THERE)}) == b""


def test_the_last_call_is_the_highest_that_the_profile_names() -> None:
    rules = [Rule("a", seccomp.ACT_ALLOW), Rule("b", EPERM), Rule("mseal", seccomp.ACT_ALLOW)]
    known = {"a": 5, "b": 9}
    assert plan(EPERM, rules, known) == Beyond(9, {462: seccomp.ACT_ALLOW}, NOT_THERE)
    assert plan(EPERM, rules, known | {"mseal": 462}) == Beyond(462, {}, NOT_THERE)
    assert plan(EPERM, rules, {"a": -10001}) is None
    assert plan(EPERM, [], known) is None


def test_conditions_on_what_libseccomp_does_not_know_are_left_out() -> None:
    conditional = Rule("mseal", seccomp.ACT_ALLOW, (Comparison(0, 4, 1),))
    assert plan(EPERM, [Rule("a", EPERM), conditional], {"a": 5}) == Beyond(5, {}, NOT_THERE)


def test_a_profile_that_is_open_stays_open() -> None:
    for default in (seccomp.ACT_ALLOW, seccomp.ACT_LOG, seccomp.ACT_TRACE | 3):
        found = plan(default, [Rule("a", EPERM), Rule("mseal", EPERM)], {"a": 5})
        assert found == Beyond(5, {462: EPERM}, None)
        code = encode({"x86_64": found})
        assert [run(code, n, X86_64) for n in (5, 6, 462, 500)] == [None, None, EPERM, None]
