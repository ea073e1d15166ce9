import os

import pytest

from shim.errors import KernelError
from shim.kernel import process, seccomp


def run_under(program: bytes) -> int:
    """Return the errno of mkdir under a filter; 0 if it was let through."""
    pid, pidfd = process.clone3(0)
    if pid == 0:
        process.set_no_new_privs()
        seccomp.load(program)
        try:
            os.mkdir("/proc/nowhere")
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_rule_refuses_one_call() -> None:
    rule = seccomp.Rule("mkdir", seccomp.ACT_ERRNO | 99)
    rules = [rule, seccomp.Rule("mkdirat", seccomp.ACT_ERRNO | 99)]
    assert run_under(seccomp.compile_rules(seccomp.ACT_ALLOW, rules)) == 99


def test_a_call_that_no_architecture_has_is_left_out() -> None:
    rule = seccomp.Rule("no_such_call", seccomp.ACT_ERRNO | 1)
    assert len(seccomp.compile_rules(seccomp.ACT_ALLOW, [rule])) % 8 == 0


def test_an_argument_that_does_not_exist_is_refused() -> None:
    rule = seccomp.Rule("mkdir", seccomp.ACT_ERRNO | 1, (seccomp.Comparison(9, 4, 0),))
    with pytest.raises(KernelError, match="mkdir"):
        seccomp.compile_rules(seccomp.ACT_ALLOW, [rule])
