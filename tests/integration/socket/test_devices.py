"""What a container may do with devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

NOBODYS = os.makedev(1, 12)  # no driver has it: who may open it is told that there is no such device
FORBIDDEN, ALLOWED = "Operation not permitted", "No such device"


@pytest.fixture
def node(daemon: Any) -> Path:
    """A device of the node that no container knows by itself."""
    path = daemon.scratch / "devices" / "nobodys"
    if not path.exists():
        path.parent.mkdir()
        os.mknod(path, 0o20666, NOBODYS)
    return path


def start(daemon: Any, *devices: cri.Device, privileged: bool = False) -> str:
    pod = daemon.pod_config()
    pod.linux.security_context.privileged = privileged
    config = daemon.container_config()
    config.devices.extend(devices)
    config.linux.security_context.privileged = privileged
    if not privileged:
        config.linux.security_context.capabilities.add_capabilities.append("MKNOD")
    return daemon.run(daemon.run_pod(pod), config=config)


def attempt(daemon: Any, id_: str, path: str) -> tuple[str, str]:
    """What opening a device for reading and for writing is told."""
    script = f"(: < {path}) 2>&1; echo; (: > {path}) 2>&1; echo"
    answers = daemon.exec(id_, "sh", "-c", script).replace("\n\n", "\n").split("\n")
    return answers[0], answers[1]


def test_a_node_can_be_made_and_not_opened(daemon: Any) -> None:
    id_ = start(daemon)
    daemon.exec(id_, "sh", "-c", "mknod /tmp/b b 254 0; mknod /tmp/n c 1 12; mknod /tmp/null c 1 3")
    for path in ("/tmp/b", "/tmp/n"):
        for answer in attempt(daemon, id_, path):
            assert FORBIDDEN in answer
    assert attempt(daemon, id_, "/tmp/null") == ("", "")


def test_the_devices_of_every_dev_can_be_used(daemon: Any) -> None:
    id_ = start(daemon)
    for name in ("null", "zero", "full", "random", "urandom", "ptmx"):
        assert attempt(daemon, id_, f"/dev/{name}") == ("", "")
    script = "echo x > /dev/stdout; (: < /dev/tty) 2>&1"
    assert daemon.exec(id_, "sh", "-c", script).startswith("x\n")


def test_a_terminal_can_be_opened_again(daemon: Any) -> None:
    script = "echo a > /dev/console; echo b > /dev/tty; echo c > $(busybox tty)"
    config = daemon.container_config("sh", "-c", script)
    config.tty = True
    id_ = daemon.run(daemon.run_pod(), config=config)
    daemon.wait(id_)
    daemon.until(lambda: len(daemon.output(id_)) == 3)
    assert [line.strip() for line in daemon.output(id_)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("permissions", "answers"),
    [("r", (ALLOWED, FORBIDDEN)), ("w", (FORBIDDEN, ALLOWED)), ("rwm", (ALLOWED, ALLOWED))],
)
def test_permissions_are_kept(daemon: Any, node: Path, permissions: str, answers: tuple[str, str]) -> None:
    device = cri.Device(container_path="/dev/mine", host_path=str(node), permissions=permissions)
    id_ = start(daemon, device)
    for told, expected in zip(attempt(daemon, id_, "/dev/mine"), answers, strict=True):
        assert expected in told


def test_limits_that_change_keep_the_rules(daemon: Any, node: Path) -> None:
    id_ = start(daemon, cri.Device(container_path="/dev/mine", host_path=str(node), permissions="r"))
    resources = cri.LinuxContainerResources(cpu_shares=300, memory_limit_in_bytes=64 << 20)
    request = cri.UpdateContainerResourcesRequest(container_id=id_, linux=resources)
    daemon.runtime.UpdateContainerResources(request)
    daemon.restart()
    read, write = attempt(daemon, id_, "/dev/mine")
    assert ALLOWED in read
    assert FORBIDDEN in write


def test_a_directory_stands_for_its_devices(daemon: Any, node: Path) -> None:
    device = cri.Device(container_path="/dev/all", host_path=str(node.parent), permissions="r")
    id_ = start(daemon, device)
    assert ALLOWED in attempt(daemon, id_, "/dev/all/nobodys")[0]


def test_a_missing_device_is_named_and_leaves_nothing(daemon: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        start(daemon, cri.Device(container_path="/dev/x", host_path="/dev/no-such", permissions="r"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'/dev/no-such'" in (caught.value.details() or "")


def test_a_privileged_container_has_every_device_of_the_node(daemon: Any) -> None:
    id_ = start(daemon, privileged=True)
    kinds = (stat.S_ISBLK, stat.S_ISCHR)
    theirs = set(daemon.exec(id_, "ls", "/dev").split())
    ours = [entry for entry in Path("/dev").iterdir() if any(kind(entry.lstat().st_mode) for kind in kinds)]
    assert {entry.name for entry in ours} - {"console", "ptmx"} <= theirs
    daemon.exec(id_, "mknod", "/tmp/n", "c", "1", "12")
    for answer in attempt(daemon, id_, "/tmp/n"):
        assert ALLOWED in answer
    disk = next((entry for entry in ours if stat.S_ISBLK(entry.lstat().st_mode)), None)
    if disk is not None:
        assert daemon.exec(id_, "sh", "-c", f"(: < /dev/{disk.name}) 2>&1") == ""


def test_a_privileged_container_may_change_sys_and_its_cgroups(daemon: Any) -> None:
    script = (
        "busybox grep -E ' /sys | /sys/fs/cgroup| /proc' /proc/mounts | busybox cut -d ' ' -f 2,4;"
        "for at in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -f $at/cgroup.procs ] || continue;"
        " busybox mkdir $at/mine && busybox rmdir $at/mine && echo $at; done;"
        "cat /proc/sys/kernel/hostname > /proc/sys/kernel/hostname && echo sysctl"
    )
    run = ("sh", "-c", script)
    told = daemon.exec(start(daemon, privileged=True), *run).splitlines()
    mounts = dict(line.split(" ") for line in told if " " in line)
    assert {path for path, options in mounts.items() if "rw" not in options.split(",")} == set()
    assert "/proc/kcore" not in mounts
    assert any(line.startswith("/sys/fs/cgroup") and " " not in line for line in told)
    assert "sysctl" in told
    told = daemon.exec(start(daemon), *run).splitlines()
    mounts = dict(line.split(" ") for line in told if " " in line)
    assert {"/sys", "/sys/fs/cgroup"} <= {
        path for path, options in mounts.items() if "ro" in options.split(",")
    }
    assert not [line for line in told if " " not in line]


def test_a_cgroup_that_a_container_made_goes_with_it(daemon: Any) -> None:
    id_ = start(daemon, privileged=True)
    script = "cd /sys/fs/cgroup; [ -d devices ] && cd devices; busybox mkdir -p mine/below; ls -d mine/below"
    assert daemon.exec(id_, "sh", "-c", script) == "mine/below\n"
    daemon.remove_all()
    assert not [
        at for at in Path("/sys/fs/cgroup").iterdir() if list(Path(f"{at}{daemon.parent}").glob("*/mine"))
    ]


def test_a_sandbox_that_is_not_privileged_takes_no_privileged_container(daemon: Any) -> None:
    config = daemon.container_config()
    config.linux.security_context.privileged = True
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(daemon.run_pod(), config)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
