"""What the containers of a pod share, and an exec with its container."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

import pytest

from shim.cgroups.hierarchy import detect
from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import proc
from shim.model import ids
from shim.model.cgroup import CgroupJoin
from shim.model.container import ContainerStatus, ProcessRef
from shim.model.resources import Resources
from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions, User
from shim.services import device_rules
from shim.services.views import ContainerView

pytestmark = pytest.mark.root

SHARED_PID = NamespaceOptions(pid=NamespaceMode.POD)
HOST = NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.NODE, ipc=NamespaceMode.NODE)
VERSION_1 = bool(detect(proc.mountinfo()).v1)
KINDS = ("net", "ipc", "uts", "pid", "mnt", "cgroup", "user")


def of(pid: int | str) -> dict[str, str]:
    """Return the namespaces of a process."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def shared(one: int | str, other: int | str) -> set[str]:
    mine, theirs = of(one), of(other)
    return {kind for kind in KINDS if mine[kind] == theirs[kind]}


async def sleeper(bed: Any, sandbox: Any, **asked: Any) -> ContainerView:
    view: ContainerView = await bed.start(sandbox, bed.spec(sandbox, "sleep", "1000", **asked))
    return view


def pid_of(view: ContainerView) -> int:
    assert view.status.process is not None
    return view.status.process.pid


async def test_containers_share_network_ipc_and_host_name_only(bed: Any) -> None:
    sandbox = await bed.sandbox()
    first, second = [pid_of(await sleeper(bed, sandbox)) for _ in range(2)]
    same = {"net", "ipc", "uts", "user"}
    if VERSION_1:  # which has no namespace of its own for them
        same.add("cgroup")
    assert shared(first, second) == same
    assert shared(first, "self") == same - {"net", "ipc", "uts"}


async def test_a_pod_on_the_host_shares_all_but_its_files(bed: Any) -> None:
    sandbox = await bed.sandbox(HOST)
    assert sandbox.pins == {}
    view = await sleeper(bed, sandbox)
    assert {"net", "ipc", "uts", "pid", "user"} <= shared(pid_of(view), "self")
    assert "mnt" not in shared(pid_of(view), "self")


async def test_a_shared_pid_namespace_has_an_init_that_reaps(bed: Any) -> None:
    sandbox = await bed.sandbox(SHARED_PID)
    first = await sleeper(bed, sandbox)
    second = await sleeper(bed, sandbox)
    assert "pid" in shared(pid_of(first), pid_of(second))
    listing = (await bed.exec(first, "ps"))[0]
    assert "sleep 1000" in listing
    assert listing.splitlines()[1].split()[0] == "1"
    await bed.exec(first, "sh", "-c", "(sleep 0.1 &) ; :")
    await asyncio.sleep(0.3)
    assert "Z" not in [
        line.split()[3] for line in (await bed.exec(first, "ps", "-o", "pid,ppid,user,stat"))[0].splitlines()
    ]


async def test_the_init_of_a_pod_has_nothing_to_be_taken(bed: Any) -> None:
    sandbox = await bed.sandbox(SHARED_PID)
    privileged = ContainerSecurity(privileged=True)
    view = await sleeper(bed, sandbox, security=privileged)
    script = """
        ls -a /proc/1/root /proc/1/fd; grep -E 'Cap(Prm|Eff|Bnd)|Seccomp:|NoNew' /proc/1/status
        touch /proc/1/root/x; readlink /proc/1/cwd; echo 1 >/proc/1/oom_score_adj"""
    out, err, _ = await bed.exec(view, "sh", "-c", script)
    zero = "0" * 16
    assert out.split() == [
        *("/proc/1/fd:", ".", "..", "/proc/1/root:", ".", ".."),
        *("CapPrm:", zero, "CapEff:", zero, "CapBnd:", zero, "NoNewPrivs:", "1", "Seccomp:", "2", "/"),
    ]
    assert "Read-only file system" in err


async def test_the_first_process_shrugs_off_signals_from_its_pod(bed: Any) -> None:
    sandbox = await bed.sandbox(SHARED_PID)
    view = await sleeper(bed, sandbox)
    await bed.exec(view, "kill", "-TERM", "1")
    await bed.exec(view, "kill", "-KILL", "1")
    assert (await bed.exec(view, "sh", "-c", "echo on"))[0] == "on\n"


async def test_a_container_may_join_the_processes_of_another(bed: Any) -> None:
    sandbox = await bed.sandbox()
    target = await sleeper(bed, sandbox)
    options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=target.spec.id)
    text = await bed.output(sandbox, "ps", security=ContainerSecurity(namespaces=options))
    assert "sleep 1000" in text
    options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id="nobody")
    with pytest.raises(FailedPrecondition, match="does not run"):
        await sleeper(bed, sandbox, security=ContainerSecurity(namespaces=options))


async def test_sysctls_belong_to_the_pod(bed: Any) -> None:
    sysctls = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456789", "net/ipv4/conf/lo/forwarding": "1"}
    sandbox = await bed.sandbox(sysctls=sysctls)
    script = "cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmax net/ipv4/ip_unprivileged_port_start"
    assert (await bed.output(sandbox, script)).split() == ["1", "123456789", "0"]
    for name in ("kernel.panic", "vm.swappiness"):
        with pytest.raises(InvalidArgument, match="would change the node"):
            await bed.sandbox(sysctls={name: "1"})


async def test_an_exec_is_in_everything_of_its_container(bed: Any) -> None:
    sandbox = await bed.sandbox()
    view = await sleeper(bed, sandbox, user=User(1000, 1000, (1000, 7)), cwd="/tmp")
    inside = (await bed.exec(view, "ls", "-l", "/proc/self/ns"))[0]
    own = of(pid_of(view))
    assert {kind for kind in KINDS if own[kind] in inside} == set(KINDS)
    script = "id -u; id -G; readlink /proc/self/cwd; echo $HOSTNAME; cat /proc/self/cgroup; exit 3"
    out, err, code = await bed.exec(view, "sh", "-c", script)
    assert (out.splitlines()[:4], err, code) == (["1000", "1000 7", "/tmp", "inside"], "", 3)
    assert view.spec.id in out or "0::/exec-" in out  # version 2: as seen in its cgroup namespace
    assert "exec-" in out


async def test_an_exec_has_three_descriptors_and_two_separate_outputs(bed: Any) -> None:
    view = await sleeper(bed, await bed.sandbox())
    out, err, code = await bed.exec(view, "sh", "-c", "ls /proc/self/fd; echo problem >&2; cat; exit 300")
    assert (out.split(), err, code) == (["0", "1", "2", "3"], "problem\n", 300 % 256)


async def test_an_exec_in_what_has_ended_is_refused(bed: Any) -> None:
    sandbox = await bed.sandbox()
    view = await sleeper(bed, sandbox)
    await bed.client.kill(view.spec.id)
    await bed.exit_of(view.spec.id)
    with pytest.raises(FailedPrecondition, match="ended"):
        await bed.exec(view, "true")
    other = ProcessRef(os.getpid(), 1, bed.boot_id)
    stranger = ContainerView(view.spec, ContainerStatus(process=other))
    place = bed.cgroups.create_exec(view.spec.cgroup, 1)
    with pytest.raises(FailedPrecondition, match="ended"):
        await bed.launcher.exec(stranger, ids.new_id(), ("true",), place)


async def test_a_unified_hierarchy_is_seen_from_the_containers_cgroup_down(bed: Any) -> None:
    """On a node of version 1 the tree beside it does as well: all that counts here is what is mounted."""
    sandbox = await bed.sandbox()
    spec = bed.spec(sandbox, "sleep", "1000")
    bed.paths.append(spec.cgroup)
    place = bed.cgroups.create(spec.cgroup, Resources(), device_rules.DEFAULT)
    place = dataclasses.replace(place, join=CgroupJoin((), place.join.v2_dir))
    process = await bed.launcher.container(sandbox, ContainerView(spec, ContainerStatus()), place)
    view = ContainerView(spec, ContainerStatus(process=process))
    exec_place = bed.cgroups.create_exec(spec.cgroup, 1)
    exec_place = dataclasses.replace(exec_place, join=CgroupJoin((), exec_place.join.v2_dir))
    script = (
        "grep ^0: /proc/1/cgroup /proc/self/cgroup; grep cgroup /proc/mounts; cat /sys/fs/cgroup/cgroup.procs"
    )
    out = (await bed.exec(view, "sh", "-c", script, place=exec_place))[0].splitlines()
    assert out[:2] == ["/proc/1/cgroup:0::/", "/proc/self/cgroup:0::/exec-1.mount"]
    assert out[2].startswith("cgroup /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec")
    assert out[3:] == ["1"]


async def test_a_container_of_a_pod_whose_init_is_gone_is_refused(bed: Any) -> None:
    sandbox = await bed.sandbox(SHARED_PID)
    await bed.client.kill(sandbox.id)
    await bed.exit_of(sandbox.id)
    with pytest.raises(FailedPrecondition, match="lost its first process"):
        await sleeper(bed, sandbox)
