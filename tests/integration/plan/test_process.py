"""The process of a container: who it is, what it may do, what it begins with."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from shim.errors import ExecFailed, FailedPrecondition, KernelError
from shim.kernel import capabilities
from shim.model.mount import Volume
from shim.model.security import (
    Capabilities,
    Confinement,
    ContainerSecurity,
    ProfileType,
    SecurityProfile,
    User,
)
from shim.runtime import privileges

pytestmark = pytest.mark.root

RUNTIME_DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)


def status_of(text: str) -> dict[str, str]:
    """Return the fields of a /proc/PID/status."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def mask(*names: str) -> int:
    return sum(1 << capabilities.parse(name) for name in names)


async def capability_sets(bed: Any, security: ContainerSecurity, user: User | None = None) -> dict[str, int]:
    text = await bed.output(await bed.sandbox(), "cat /proc/self/status", security=security, user=user)
    return {name: int(status_of(text)[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


async def test_root_has_the_usual_capabilities(bed: Any) -> None:
    usual = mask(*privileges.DEFAULT)
    found = await capability_sets(bed, ContainerSecurity())
    assert found == {"Inh": 0, "Prm": usual, "Eff": usual, "Bnd": usual, "Amb": 0}


async def test_an_ordinary_user_has_none_but_may_get_the_usual_ones(bed: Any) -> None:
    found = await capability_sets(bed, ContainerSecurity(), User(1000, 1000))
    assert found == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": mask(*privileges.DEFAULT), "Amb": 0}


async def test_ambient_capabilities_reach_an_ordinary_user(bed: Any) -> None:
    asked = Capabilities(drop=("ALL",), add_ambient=("NET_BIND_SERVICE",))
    only = mask("NET_BIND_SERVICE")
    found = await capability_sets(bed, ContainerSecurity(capabilities=asked), User(1000, 1000))
    assert set(found.values()) == {only}


async def test_a_privileged_container_has_all_that_the_node_has(bed: Any) -> None:
    found = await capability_sets(bed, ContainerSecurity(privileged=True))
    assert found["Eff"] == capabilities.bounding_set()


async def test_capabilities_are_added_and_dropped(bed: Any) -> None:
    asked = Capabilities(add=("sys_time", "CAP_SYS_RESOURCE"), drop=("NET_RAW",))
    found = await capability_sets(bed, ContainerSecurity(capabilities=asked))
    wanted = (
        mask(*privileges.DEFAULT, "SYS_TIME", "SYS_RESOURCE") & ~mask("NET_RAW")
    ) & capabilities.bounding_set()
    assert found["Eff"] == wanted


async def test_identity_and_what_a_program_begins_with(bed: Any) -> None:
    user = User(1000, 1001, (1001, 5, 6))
    script = """
        id -u; id -g; id -G; umask; ls /proc/self/fd | wc -l; echo "$RAW" | od -An -tx1
        env | sort | grep -v RAW"""
    for applet in ("wc", "od", "env", "sort"):
        os.link(bed.lower / "bin/busybox", bed.lower / "bin" / applet)
    lines = (await bed.output(await bed.sandbox(), script, user=user)).splitlines()
    assert lines[:4] == ["1000", "1001", "1001 5 6", "0022"]
    assert lines[4].strip() == "4"
    assert lines[5].split() == ["ff", "0a"]
    assert set(lines[6:]) - {"SHLVL=1", "PWD=/", "_=/bin/env"} == {"HOME=/", "HOSTNAME=inside", "PATH=/bin"}


async def test_nothing_is_inherited_from_the_supervisor(bed: Any) -> None:
    script = "cat /proc/self/status /proc/self/limits; cat /proc/self/oom_score_adj"
    text = await bed.output(await bed.sandbox(), script)
    fields = status_of(text)
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(fields[name], 16) == 0
    limits = {line[:26].strip(): line[26:].split() for line in text.splitlines() if line.startswith("Max ")}
    assert limits["Max open files"][0] == "1024"
    assert limits["Max stack size"][:2] == ["8388608", "unlimited"]
    assert limits["Max core file size"][0] == "unlimited"
    assert text.splitlines()[-1] == "0"


async def test_each_container_has_a_session_keyring_of_its_own(bed: Any) -> None:
    sandbox = await bed.sandbox()
    security = ContainerSecurity(masked_paths=("/nothing",))
    spec = bed.spec(sandbox, "cat", "/proc/keys", security=security)
    await bed.start(sandbox, spec)
    assert f"keyring   {spec.id}"[:50] in await bed.log(spec)


async def test_no_new_privileges_only_where_asked(bed: Any) -> None:
    sandbox = await bed.sandbox()
    for asked in (True, False):
        security = ContainerSecurity(no_new_privs=asked, seccomp=RUNTIME_DEFAULT)
        for user in (User(0, 0), User(1000, 1000)):
            text = await bed.output(sandbox, "cat /proc/self/status", security=security, user=user)
            fields = status_of(text)
            assert (fields["NoNewPrivs"], fields["Seccomp"]) == (str(int(asked)), "2")


async def test_without_a_profile_there_is_no_filter(bed: Any) -> None:
    assert status_of(await bed.output(await bed.sandbox(), "cat /proc/self/status"))["Seccomp"] == "0"


async def test_the_default_profile_refuses_what_leads_out(bed: Any) -> None:
    script = "unshare -m true; mount -t tmpfs x /tmp; hostname other; mkdir /tmp/d && echo fine"
    security = ContainerSecurity(seccomp=RUNTIME_DEFAULT, capabilities=Capabilities(add=("SYS_PTRACE",)))
    lines = (await bed.output(await bed.sandbox(), script, security=security)).splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [
        *("Operation not permitted", "permission denied (are you root?)", "Operation not permitted", "fine"),
    ]


async def test_the_default_profile_allows_what_the_capability_does(bed: Any) -> None:
    security = ContainerSecurity(seccomp=RUNTIME_DEFAULT, capabilities=Capabilities(add=("SYS_ADMIN",)))
    script = "unshare -m true && mount -t tmpfs x /tmp && echo fine"
    assert await bed.output(await bed.sandbox(), script, security=security) == "fine\n"


async def test_a_profile_of_the_node(bed: Any) -> None:
    path = bed.directory / "profile.json"
    path.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": '
        '[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}'
    )
    for security in (
        ContainerSecurity(seccomp=SecurityProfile(ProfileType.LOCALHOST, str(path))),
        ContainerSecurity(seccomp_profile_path=f"localhost/{path}"),
    ):
        text = await bed.output(await bed.sandbox(), "mkdir /x", security=security)
        assert "No space left on device" in text


async def test_a_privileged_container_has_no_filter(bed: Any) -> None:
    security = ContainerSecurity(privileged=True, seccomp=RUNTIME_DEFAULT)
    assert (
        status_of(await bed.output(await bed.sandbox(), "cat /proc/self/status", security=security))[
            "Seccomp"
        ]
        == "0"
    )


async def test_a_label_that_the_kernel_does_not_take_stops_the_start(bed: Any) -> None:
    """Written through the node's /proc, whatever the container has at its own."""
    sandbox = await bed.sandbox()
    (bed.directory / "attr").mkdir()
    for volumes in ((), (Volume("/proc/self/attr", str(bed.directory / "attr")),)):
        spec = bed.spec(sandbox, "true", volumes=volumes)
        spec = dataclasses.replace(spec, confinement=Confinement(apparmor="no-such-profile"))
        with pytest.raises((FailedPrecondition, KernelError), match="exec no-such-profile"):
            await bed.start(sandbox, spec)
    assert os.listdir(bed.directory / "attr") == []


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/bin/nope", 127, 'exec: "/bin/nope": no such file or directory'),
        ("/etc", 126, 'exec: "/etc": permission denied'),
        ("/etc/hosts", 126, 'exec: "/etc/hosts": permission denied'),
    ],
)
async def test_a_program_that_cannot_be_started(bed: Any, program: str, code: int, text: str) -> None:
    sandbox = await bed.sandbox()
    with pytest.raises(ExecFailed) as caught:
        await bed.start(sandbox, bed.spec(sandbox, program))
    assert (str(caught.value), caught.value.exit_code) == (text, code)
    view = await bed.start(sandbox, bed.spec(sandbox, "sleep", "1000"))
    with pytest.raises(ExecFailed) as caught:
        await bed.exec(view, program)
    assert (str(caught.value), caught.value.exit_code) == (text, code)
