"""What a profile file may say, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shim.errors import InvalidArgument, Unimplemented
from shim.kernel import seccomp
from shim.kernel.seccomp import Comparison, Rule
from shim.runtime.seccomp_profile import Process, Profile, parse

HERE = Process(1 << 21, "x86_64", "6.1.0-18-amd64")  # SYS_ADMIN


def parsed(process: Process = HERE, **value: Any) -> Profile:
    return parse(json.dumps({"defaultAction": "SCMP_ACT_ERRNO"} | value).encode(), process)


def rules(process: Process = HERE, **entry: Any) -> list[Rule]:
    whole = {"names": ["a"], "action": "SCMP_ACT_ALLOW"} | entry
    return list(parsed(process, syscalls=[whole]).rules)


@pytest.mark.parametrize(
    ("name", "number", "action"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x00030000),
        ("SCMP_ACT_ERRNO", None, 0x00050001),
        ("SCMP_ACT_ERRNO", 0, 0x00050000),
        ("SCMP_ACT_ERRNO", 4095, 0x00050FFF),
        ("SCMP_ACT_TRACE", 0xFFFF, 0x7FF0FFFF),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
        ("SCMP_ACT_ALLOW", None, 0x7FFF0000),
    ],
)
def test_actions(name: str, number: int | None, action: int) -> None:
    assert parsed(defaultAction=name, defaultErrnoRet=number).default_action == action
    assert rules(action=name, errnoRet=number) == [Rule("a", action)]


@pytest.mark.parametrize(("name", "number"), seccomp.OPERATORS.items())
def test_operators(name: str, number: int) -> None:
    argument = {"index": 5, "value": 2**64 - 1, "valueTwo": 7, "op": name}
    assert rules(args=[argument]) == [Rule("a", seccomp.ACT_ALLOW, (Comparison(5, number, 2**64 - 1, 7),))]


def test_conditions_on_several_arguments_hold_together_and_on_one_by_turns() -> None:
    def of(index: int) -> dict[str, object]:
        return {"index": index, "value": 1, "op": "SCMP_CMP_EQ"}

    assert [len(rule.comparisons) for rule in rules(args=[of(0), of(1)])] == [2]
    assert [len(rule.comparisons) for rule in rules(args=[of(0), of(1), of(0)])] == [1, 1, 1]


def test_the_older_form_has_one_name() -> None:
    assert rules(names=None, name="b") == [Rule("b", seccomp.ACT_ALLOW)]


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, False),
        ({"includes": {"caps": ["CAP_OF_ANOTHER_AGE"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"includes": {"minKernel": "10.0"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"excludes": {"minKernel": "6.2"}}, True),
        ({"includes": {}, "excludes": None}, True),
    ],
)
def test_conditions_of_docker(condition: dict[str, Any], applies: bool) -> None:
    assert bool(rules(**condition)) == applies


@pytest.mark.parametrize(
    ("machine", "value", "expected"),
    [
        ("x86_64", {}, ()),
        ("x86_64", {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}, ("x86",)),
        ("x86_64", {"architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86"]}, ("x86", "x32")),
        ("x86_64", {"architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPSEL64N32"]}, ()),
        ("aarch64", {"architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}, ("arm",)),
        ("riscv64", {"architectures": ["SCMP_ARCH_RISCV64"]}, ()),
        ("x86_64", {"archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["x"]}]}, ()),
        (
            "x86_64",
            {
                "archMap": [
                    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
                ]
            },
            ("x86",),
        ),
    ],
)
def test_architectures(machine: str, value: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert parsed(Process(0, machine, "6.1"), **value).architectures == expected


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        ({}, seccomp.FLAG_SPEC_ALLOW),
        ({"flags": None}, seccomp.FLAG_SPEC_ALLOW),
        ({"flags": []}, 0),
        ({"flags": ["SECCOMP_FILTER_FLAG_TSYNC"]}, 0),
        ({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, seccomp.FLAG_LOG),
        (
            {"flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"]},
            seccomp.FLAG_LOG | seccomp.FLAG_SPEC_ALLOW,
        ),
    ],
)
def test_flags(value: dict[str, Any], flags: int) -> None:
    assert parsed(**value).flags == flags


def entry(**value: Any) -> dict[str, Any]:
    return {"syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW"} | value]}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "a profile is not an object"),
        (b"{}", "defaultAction is None"),
        (b'{"defaultAction": ["SCMP_ACT_KILL"]}', "no action"),
        (b'{"defaultAction": "SCMP_ACT_MAYBE"}', "SCMP_ACT_MAYBE"),
    ],
)
def test_what_is_no_profile_is_refused(text: bytes, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word):
        parse(text, HERE)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"defaultErrnoRet": 5000}, "5000"),
        ({"defaultErrnoRet": -1}, "-1"),
        ({"defaultErrnoRet": "EPERM"}, "EPERM"),
        ({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}, "takes no error number"),
        ({"syscalls": {}}, "not a list"),
        ({"syscalls": ["read"]}, "not an object"),
        (entry(action=None), "action on a"),
        (entry(names=[]), "names none"),
        (entry(names=[""]), "names none"),
        (entry(names=[1]), "list of texts"),
        (entry(errnoRet=1), "takes no error number"),
        (entry(args=[{"index": 0, "value": 1, "op": "?"}]), "operator"),
        (entry(args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]), "index"),
        (entry(args=[{"value": 1, "op": "SCMP_CMP_EQ"}]), "index"),
        (entry(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), "-1"),
        (entry(args=[{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]), str(2**64)),
        (entry(args=[{"index": 0, "value": True, "op": "SCMP_CMP_EQ"}]), "True"),
        (entry(includes={"minKernel": "new"}), "minKernel"),
        (entry(includes=["caps"]), "not an object"),
        (entry(excludes={"caps": "CAP_BPF"}), "not a list"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, "SCMP_ARCH_VAX"),
        ({"flags": ["SECCOMP_FILTER_FLAG_WAVE"]}, "SECCOMP_FILTER_FLAG_WAVE"),
    ],
)
def test_what_is_wrong_is_named(value: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidArgument, match="seccomp profile") as caught:
        parsed(**value)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        entry(action="SCMP_ACT_NOTIFY"),
        {"listenerPath": "/run/agent.sock"},
    ],
)
def test_an_agent_is_not_supported(value: dict[str, Any]) -> None:
    with pytest.raises(Unimplemented, match="seccomp profile"):
        parsed(**value)


@pytest.mark.parametrize(
    "value",
    [
        {"defaultAction": {}},
        {"archMap": [{"architecture": {"a": 1}}]},
        entry(args=[{"index": 0, "value": 0, "op": []}]),
        entry(names=None, name={}),
    ],
)
def test_a_value_of_another_kind_is_an_error_of_ours(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        parsed(**value)
