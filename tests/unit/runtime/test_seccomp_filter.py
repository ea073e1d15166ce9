"""Profiles and the rules that come of them."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.kernel import capabilities, seccomp
from shim.runtime import seccomp_default, seccomp_filter

ALLOW = seccomp.ACT_ALLOW


def names(*has: str, machine: str = "x86_64") -> set[str]:
    """Return what is allowed without any condition."""
    mask = sum(1 << capabilities.parse(name) for name in has)
    rules = seccomp_filter.plan_default(mask, machine)
    return {rule.name for rule in rules if rule.action == ALLOW and not rule.comparisons}


def test_nothing_is_named_twice() -> None:
    allowed = seccomp_default.ALLOWED
    assert len(set(allowed)) == len(allowed)


@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "kexec_load",
        "reboot",
        "swapon",
        "io_uring_setup",
    ],
)
def test_what_reaches_beyond_the_container_is_not_allowed(name: str) -> None:
    assert name not in names()


@pytest.mark.parametrize(
    "name", ["read", "execve", "futex", "epoll_wait", "ptrace", "landlock_create_ruleset"]
)
def test_what_programs_need_is_allowed(name: str) -> None:
    assert name in names()


@pytest.mark.parametrize(("capability", "theirs"), seccomp_default.WITH_CAPABILITY.items())
def test_a_capability_allows_what_it_is_for(capability: str, theirs: tuple[str, ...]) -> None:
    capabilities.parse(capability)
    assert set(theirs) <= names(capability)


def test_namespaces_by_clone_need_sys_admin() -> None:
    rules = {rule.name: rule for rule in seccomp_filter.plan_default(0, "x86_64")}
    (flags,) = rules["clone"].comparisons
    assert (flags.argument, flags.first, flags.second) == (0, seccomp_default.NAMESPACE_FLAGS, 0)
    assert rules["clone3"].action == seccomp.ACT_ERRNO | errno.ENOSYS
    assert {"clone", "clone3"} <= names("SYS_ADMIN")


def test_machines_differ() -> None:
    assert "arch_prctl" in names()
    assert "arch_prctl" not in names(machine="aarch64")
    assert "arch_prctl" not in names(machine="riscv64")


def test_a_program_is_built_once() -> None:
    assert seccomp_filter.runtime_default(1) is seccomp_filter.runtime_default(1)
    assert seccomp_filter.runtime_default(1) != seccomp_filter.runtime_default(1 << 21)
    assert len(seccomp_filter.reaper()) < len(seccomp_filter.runtime_default(1).code)


def profile(**value: Any) -> bytes:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO"} | value).encode()


def test_rules_of_docker_depend_on_capabilities_and_machine() -> None:
    rule = {"names": ["mount"], "action": "SCMP_ACT_ALLOW"}
    without = seccomp_filter.from_json(profile(), 0, "x86_64")
    for condition, mask, applies in (
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, 0, False),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, 1 << 21, True),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, 1 << 21, False),
        ({"includes": {"arches": ["amd64"]}}, 0, True),
        ({"includes": {"arches": ["s390x"]}}, 0, False),
        ({"excludes": {"arches": ["amd64"]}}, 0, False),
        ({"includes": {}, "excludes": {}}, 0, True),
    ):
        program = seccomp_filter.from_json(profile(syscalls=[rule | condition]), mask, "x86_64")
        assert (program != without) == applies


def test_several_conditions_on_one_argument_mean_any_of_them() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    both = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args}
    each = [{**both, "args": [arg]} for arg in args]
    build = seccomp_filter.from_json
    assert build(profile(syscalls=[both]), 0) == build(profile(syscalls=each), 0)


def test_other_architectures_are_taken_from_list_or_map() -> None:
    listed = profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    mapped = profile(archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}])
    build = seccomp_filter.from_json
    assert build(listed, 0, "x86_64") == build(mapped, 0, "x86_64") != build(profile(), 0, "x86_64")


def test_a_profile_of_the_node_is_built_once_for_each_set_of_capabilities() -> None:
    text = profile()
    assert seccomp_filter.from_json(text, 1) is seccomp_filter.from_json(profile(), 1)
    assert seccomp_filter.from_json(text, 1) is not seccomp_filter.from_json(text, 2)


def test_a_profile_that_is_too_large_for_the_kernel_is_refused() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in range(5000)]
    rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]
    with pytest.raises(InvalidArgument, match="4096"):
        seccomp_filter.from_json(profile(syscalls=rules), 0)


def test_unknown_names_are_passed_over() -> None:
    rule = {"names": ["frobnicate", "read"], "action": "SCMP_ACT_ALLOW"}
    known = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    build = seccomp_filter.from_json
    assert build(profile(syscalls=[rule]), 0) == build(profile(syscalls=[known]), 0)


def test_sockets_are_allowed_by_a_list_with_an_end() -> None:
    """A filter sees 64 bits of a family, the kernel takes 32: what is open upwards lets AF_VSOCK through."""
    rules = [rule for rule in seccomp_filter.plan_default(0, "x86_64") if rule.name == "socket"]
    operators = {seccomp.OPERATORS["SCMP_CMP_EQ"], seccomp.OPERATORS["SCMP_CMP_LT"]}
    assert {rule.comparisons[0].operator for rule in rules} == operators
    assert not {38, 40} & {
        r.comparisons[0].first for r in rules if r.comparisons[0].operator == max(operators)
    }


def test_the_flags_of_clone_are_where_the_machine_has_them() -> None:
    for machine, argument in (("x86_64", 0), ("aarch64", 0), ("s390x", 1)):
        rules = {rule.name: rule for rule in seccomp_filter.plan_default(0, machine)}
        assert rules["clone"].comparisons[0].argument == argument
