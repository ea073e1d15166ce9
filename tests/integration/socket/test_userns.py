"""Pods with a user namespace: who is who, on both sides; and a node whose kernel is too old for them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

FIRST, COUNT = 200_000, 65_536
# Memory file systems, and with them volumes of Secrets, take an id map since Linux 6.3.
NEW = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 3)

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def possible(daemon: Any, request: pytest.FixtureRequest) -> None:
    status = daemon.runtime.Status(cri.StatusRequest())
    assert {handler.features.user_namespaces for handler in status.runtime_handlers} == {NEW}
    if not NEW and request.function is not test_a_node_with_an_old_kernel_says_so_and_refuses:
        pytest.skip("memory file systems take no id map before Linux 6.3")


def options(pid: int = cri.CONTAINER, first: int = FIRST, count: int = COUNT) -> cri.NamespaceOption:
    ids = [cri.IDMapping(host_id=first, container_id=0, length=count)]
    return cri.NamespaceOption(pid=pid, userns_options=cri.UserNamespace(mode=cri.POD, uids=ids, gids=ids))


def pod_of(daemon: Any, **more: Any) -> tuple[str, cri.PodSandboxConfig]:
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options(**more))
    return daemon.run_pod(config)


def container(daemon: Any, pod: Any, *command: str) -> cri.ContainerConfig:
    config = daemon.container_config(*command)
    asked = pod[1].linux.security_context.namespace_options
    config.linux.security_context.namespace_options.CopyFrom(asked)
    return config


def refused(call: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return caught.value.details()


@pytest.mark.skipif(NEW, reason="this node's kernel can do it")
def test_a_node_with_an_old_kernel_says_so_and_refuses(daemon: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pod_of(daemon)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "tmpfs" in (caught.value.details() or "")
    assert not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items


@pytest.mark.parametrize("pid", [cri.CONTAINER, cri.POD])
def test_root_inside_is_nobody_outside(daemon: Any, pid: int) -> None:
    pod = pod_of(daemon, pid=pid)
    id_ = daemon.run(pod, config=container(daemon, pod))
    ids = Path(f"/proc/{daemon.pid(id_)}/status").read_text()
    uids = next(line for line in ids.splitlines() if line.startswith("Uid"))
    assert uids.split()[1:] == [str(FIRST)] * 4
    assert daemon.exec(id_, "cat", "/proc/self/uid_map").split() == ["0", str(FIRST), str(COUNT)]
    assert daemon.exec(id_, "id", "-u") == "0\n"
    shown = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0])).status
    assert shown.linux.namespaces.options == pod[1].linux.security_context.namespace_options


def test_every_namespace_belongs_to_it(daemon: Any) -> None:
    pod = pod_of(daemon, pid=cri.POD)
    pid = daemon.pid(daemon.run(pod, config=container(daemon, pod)))
    user = os.stat(f"/proc/{pid}/ns/user").st_ino
    assert user != os.stat("/proc/self/ns/user").st_ino
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert owner_of(f"/proc/{pid}/ns/{kind}") == user, kind


def owner_of(path: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    owner = fcntl.ioctl(fd, 0xB701)  # NS_GET_USERNS
    try:
        return os.fstat(owner).st_ino
    finally:
        os.close(owner)
        os.close(fd)


def run(daemon: Any, *changes: Any, pod: Any = None, command: tuple[str, ...] = ()) -> str:
    pod = pod or pod_of(daemon)
    config = container(daemon, pod, *command)
    for change in changes:
        change(config)
    return daemon.run(pod, config=config)


def test_what_the_runtime_makes_belongs_to_the_pods_root(daemon: Any) -> None:
    id_ = run(daemon, lambda c: c.mounts.add(container_path="/new/in/here", host_path=str(daemon.scratch)))
    paths = (
        "/ /bin /bin/busybox /etc/passwd /dev /dev/null /dev/fd /dev/pts /dev/shm /dev/mqueue /new/in /tmp"
    )
    script = f"for p in {paths} /etc/hosts /etc/hostname /etc/resolv.conf; do stat -c '%n %u:%g' $p; done"
    owners = dict(line.split() for line in daemon.exec(id_, "sh", "-c", script).splitlines())
    assert owners.pop("/dev/pts") in ("0:0", "65534:65534")
    assert set(owners.values()) == {"0:0"}, owners
    daemon.exec(
        id_, "sh", "-c", "echo >/written; echo >>/etc/passwd; echo 1.2.3.4 x >>/etc/hosts; echo >/dev/shm/x"
    )
    upper = daemon.root / "images/snapshots" / id_ / "fs"
    for path in (upper, upper / "written", upper / "etc/passwd", upper / "new"):
        assert (path.stat().st_uid, path.stat().st_gid) == (FIRST, FIRST), path
    assert daemon.exec(id_, "cat", "/etc/hosts").endswith("1.2.3.4 x\n")


def test_the_file_systems_and_devices_are_those_of_every_container(daemon: Any) -> None:
    id_ = run(daemon)
    mounts = {
        line.split()[1]: (line.split()[2], line.split()[3].split(","))
        for line in daemon.exec(id_, "cat", "/proc/mounts").splitlines()
    }
    kinds = {path: kind for path, (kind, _) in mounts.items()}
    for path, kind in (
        *(("/", "overlay"), ("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts")),
        *(("/dev/mqueue", "mqueue"), ("/sys", "sysfs"), ("/dev/shm", "tmpfs")),
    ):
        assert kinds[path] == kind
    assert "ro" in mounts["/sys"][1]
    assert "nodev" in mounts["/"][1]
    assert not [path for path in mounts if str(daemon.scratch) in path]
    assert sum(1 for path in kinds if path == "/proc") == 1
    script = "echo x >/dev/null; head -c 3 /dev/zero | wc -c; ls /sys/class/net; ls -d /proc/[0-9]*"
    assert daemon.exec(id_, "sh", "-c", script).split()[:3] == ["3", "eth0", "lo"]
    assert daemon.exec(id_, "sh", "-c", "readlink /dev/fd") == "/proc/self/fd\n"


def test_a_proc_without_masks(daemon: Any) -> None:
    """What a kubelet sends for ProcMount Unmasked: no paths at all; what it sends else hides them."""

    def usual(config: cri.ContainerConfig) -> None:
        config.linux.security_context.masked_paths.extend(["/proc/timer_list", "/proc/keys"])
        config.linux.security_context.readonly_paths.append("/proc/sys")

    points = "while read -r _ at _; do case $at in /proc*) echo $at;; esac; done </proc/mounts"
    assert daemon.exec(run(daemon), "sh", "-c", points).split() == ["/proc"]
    seen = daemon.exec(run(daemon, usual), "sh", "-c", points).split()
    assert {"/proc", "/proc/sys", "/proc/keys"} <= set(seen)


def test_no_right_reaches_beyond_it(daemon: Any) -> None:
    def all_capabilities(config: cri.ContainerConfig) -> None:
        config.linux.security_context.capabilities.add_capabilities.append("ALL")
        config.linux.security_context.masked_paths.append("/proc/keys")
        # AppArmor's profile would allow no mount at all.
        config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Unconfined

    id_ = run(daemon, all_capabilities)
    for script in (
        "mknod /dev/disk b 8 0",
        "echo 1 >/proc/sys/kernel/panic",
        "echo 1 >/proc/sys/vm/drop_caches",
        "echo -1000 >/proc/self/oom_score_adj",
        "dmesg -c",
        "mount -o remount,nr_inodes=1 /dev/shm",
        "mount -t ext4 /dev/null /tmp",
        "chown 70000 /tmp",
    ):
        answer = daemon.runtime.ExecSync(cri.ExecSyncRequest(container_id=id_, cmd=["sh", "-c", script]))
        assert answer.exit_code != 0, script
        why = answer.stderr.decode().lower()
        assert any(each in why for each in ("not permitted", "denied", "read-only", "invalid")), (script, why)
    assert daemon.exec(id_, "sh", "-c", "mount -t tmpfs x /tmp && stat -f -c %T /tmp") == "tmpfs\n"


def test_an_exec_is_in_it_too(daemon: Any) -> None:
    def as_app(config: cri.ContainerConfig) -> None:
        config.linux.security_context.run_as_user.value = 1000
        config.linux.resources.oom_score_adj = 321

    id_ = run(daemon, as_app)
    assert daemon.exec(id_, "id", "-u") == "1000\n"
    script = (
        "cat /proc/self/uid_map /proc/self/oom_score_adj /proc/1/oom_score_adj; echo through >/dev/stdout"
    )
    assert daemon.exec(id_, "sh", "-c", script).split() == [
        *("0", str(FIRST), str(COUNT)),
        *("321", "321", "through"),
    ]
    status = Path(f"/proc/{daemon.pid(id_)}/status").read_text()
    assert f"Uid:\t{FIRST + 1000}" in status
    assert daemon.exec(id_, "sh", "-c", "ulimit -n") == daemon.exec(
        daemon.run(daemon.run_pod()), "sh", "-c", "ulimit -n"
    )


def test_output_of_a_user_and_of_a_terminal(daemon: Any) -> None:
    def as_app(config: cri.ContainerConfig) -> None:
        config.linux.security_context.run_as_user.value = 1000

    def with_terminal(config: cri.ContainerConfig) -> None:
        as_app(config)
        config.tty = True

    script = ("sh", "-c", "echo plain >/dev/stdout; stat -c %u /proc/self/fd/1")
    id_ = run(daemon, as_app, command=script)
    daemon.wait(id_)
    assert daemon.output(id_) == ["plain", "1000"]
    script = ("sh", "-c", "[ -t 0 ] && [ -c /dev/console ] && stat -c %u /dev/console; echo >/dev/tty seen")
    id_ = run(daemon, with_terminal, command=script)
    daemon.wait(id_)
    assert [line.strip() for line in daemon.output(id_)] == ["1000", "seen"]


def volume(host: Path, *maps: tuple[int, int, int], **more: Any) -> Any:
    ids = [cri.IDMapping(container_id=a, host_id=b, length=n) for a, b, n in maps]

    def add(config: cri.ContainerConfig) -> None:
        config.mounts.add(container_path="/v", host_path=str(host), uidMappings=ids, gidMappings=ids, **more)

    return add


@pytest.mark.parametrize(
    ("maps", "seen", "made"),
    [
        (((0, FIRST, COUNT),), ["0", "1000"], 0),
        (((0, FIRST + 500, 100),), ["500", "65534"], None),
        ((), ["65534", "65534"], None),
    ],
)
def test_a_volume_with_an_id_map(
    daemon: Any, tmp_path: Path, maps: Any, seen: list[str], made: int | None
) -> None:
    for name, uid in (("root", 0), ("app", 1000)):
        (tmp_path / name).write_text(name)
        os.chown(tmp_path / name, uid, uid)
    tmp_path.chmod(0o755)
    id_ = run(daemon, volume(tmp_path, *maps))
    assert daemon.exec(id_, "sh", "-c", "stat -c %u /v/root; stat -c %u /v/app").split() == seen
    daemon.exec(id_, "sh", "-c", "echo >/v/new")
    assert ((tmp_path / "new").stat().st_uid if (tmp_path / "new").exists() else None) == made


def test_a_volume_in_memory_can_be_mapped(daemon: Any, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "x", str(tmp_path)], check=True)
    try:
        (tmp_path / "secret").write_text("for root")
        (tmp_path / "secret").chmod(0o400)
        id_ = run(daemon, volume(tmp_path, (0, FIRST, COUNT), readonly=True))
        assert daemon.exec(id_, "cat", "/v/secret") == "for root"
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_volume_that_cannot_be_mapped_is_named(daemon: Any) -> None:
    pod = pod_of(daemon)
    config = container(daemon, pod)
    volume(Path("/sys/kernel"), (0, FIRST, COUNT))(config)
    id_ = daemon.create(pod, config)
    with pytest.raises(grpc.RpcError) as caught:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "/sys/kernel" in caught.value.details()
    assert "/sys (sysfs)" in caught.value.details()


def test_images_as_volumes_and_volumes_of_images(daemon: Any) -> None:
    entries = (("d", {"type": b"5", "mode": 0o750}, b""), ("d/f", {"mode": 0o600, "uid": 7}, b"text\n"))
    other = daemon.load("example.com/test/ids:1", {}, daemon.tar(*entries))
    busybox = (("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()),)
    links = (("bin/sh", {"type": b"2", "linkname": "busybox"}, b""),)
    image = daemon.load(
        "example.com/test/declares:1",
        {"Env": ["PATH=/bin"], "Volumes": {"/d": {}, "/none": {}}},
        daemon.tar(*entries, *busybox, *links),
    )

    def change(config: cri.ContainerConfig) -> None:
        config.image.image = image
        config.command[:] = ["busybox", "sleep", "1000"]
        config.mounts.add(container_path="/i", image=cri.ImageSpec(image=other), readonly=True)
        config.mounts.add(
            container_path="/part", image=cri.ImageSpec(image=other), readonly=True, image_sub_path="d"
        )

    id_ = run(daemon, change)
    script = "for p in /i /i/d/f /part/f /d /d/f /none; do busybox stat -c '%u:%g' $p; done"
    script += "; busybox cat /d/f /part/f"
    assert daemon.exec(id_, "sh", "-c", script).split() == [
        *("0:0", "7:0", "7:0", "0:0", "7:0", "0:0"),
        *("text", "text"),
    ]


def test_sysctls_of_its_namespaces(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    config.linux.sysctls.update(
        {"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "15", "net.ipv4.ip_forward": "1"}
    )
    pod = daemon.run_pod(config)
    paths = [f"/proc/sys/{p}" for p in ("kernel/shm_rmid_forced", "fs/mqueue/msg_max", "net/ipv4/ip_forward")]
    assert daemon.exec(run(daemon, pod=pod), "cat", *paths).split() == ["1", "15", "1"]


def test_containers_of_a_pod_see_each_other_as_they_ask(daemon: Any) -> None:
    pod = pod_of(daemon, pid=cri.POD)
    one = run(daemon, pod=pod, command=("sleep", "1001"))
    two = run(daemon, pod=pod, command=("sleep", "1002"))
    seen = daemon.exec(one, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert {"1001", "1002", "init"} <= set(seen.split())

    def aim(config: cri.ContainerConfig) -> None:
        config.linux.security_context.namespace_options.pid = cri.TARGET
        config.linux.security_context.namespace_options.target_id = alone

    alone = run(daemon, pod=(other := pod_of(daemon)), command=("sleep", "1003"))
    three = run(daemon, aim, pod=other)
    assert "1003" in daemon.exec(three, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").split()
    assert two


def test_daemons_and_supervisors_may_be_killed_around_it(daemon: Any) -> None:
    pod = pod_of(daemon, pid=cri.POD)
    id_ = run(daemon, pod=pod)
    daemon.restart()
    assert daemon.exec(id_, "id", "-u") == "0\n"
    again = run(daemon, pod=pod)
    assert daemon.exec(again, "cat", "/proc/self/uid_map").split()[1] == str(FIRST)
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0], verbose=True))
    kinds = {each["type"] for each in json.loads(status.info["info"])["runtimeSpec"]["linux"]["namespaces"]}
    assert {"user", "network", "ipc", "uts", "pid"} <= kinds


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o: setattr(o.userns_options, "mode", cri.CONTAINER), "CONTAINER"),
        (lambda o: setattr(o.userns_options, "mode", cri.TARGET), "TARGET"),
        (lambda o: setattr(o.userns_options, "mode", cri.NODE), "no mappings"),
        (lambda o: o.userns_options.ClearField("uids"), "exactly one"),
        (lambda o: o.userns_options.gids.add(host_id=1, container_id=70000, length=1), "exactly one"),
        (lambda o: setattr(o.userns_options.uids[0], "host_id", 7), "same mapping"),
        (lambda o: setattr(o.userns_options.uids[0], "length", 0), "0 ids"),
        (lambda o: setattr(o.userns_options.uids[0], "container_id", 1), "no root"),
        (lambda o: setattr(o.userns_options.uids[0], "host_id", 2**32 - 2), "ends nowhere"),
        (lambda o: setattr(o, "network", cri.NODE), "node's network"),
        (lambda o: setattr(o, "ipc", cri.NODE), "node's ipc"),
        (lambda o: setattr(o, "pid", cri.NODE), "node's pid"),
    ],
)
def test_what_can_be_no_user_namespace_is_refused(daemon: Any, change: Any, named: str) -> None:
    config = daemon.pod_config()
    asked = options()
    change(asked)
    config.linux.security_context.namespace_options.CopyFrom(asked)
    assert named in refused(lambda: daemon.run_pod(config))


def test_containers_that_do_not_fit_into_it_are_refused(daemon: Any) -> None:
    pod = pod_of(daemon, count=1000)

    def refusal(change: Any, at: Any = pod) -> str:
        config = container(daemon, at)
        change(config)
        return refused(lambda: daemon.create(at, config))

    def elsewhere(config: cri.ContainerConfig) -> None:
        config.linux.security_context.namespace_options.CopyFrom(options(first=FIRST + 1))

    def on_the_node(config: cri.ContainerConfig) -> None:
        config.linux.security_context.namespace_options.userns_options.Clear()
        config.linux.security_context.namespace_options.userns_options.mode = cri.NODE

    def user(config: cri.ContainerConfig) -> None:
        config.linux.security_context.run_as_user.value = 1000

    def group(config: cri.ContainerConfig) -> None:
        config.linux.security_context.supplemental_groups.append(1000)

    def half(config: cri.ContainerConfig) -> None:
        config.mounts.add(
            container_path="/v", host_path="/tmp", uidMappings=[cri.IDMapping(container_id=0, length=1)]
        )

    assert "of its sandbox" in refusal(elsewhere)
    assert "of its sandbox" in refusal(on_the_node)
    assert "user 1000" in refusal(user)
    assert "group 1000" in refusal(group)
    assert "only one of" in refusal(half)
    plain = daemon.run_pod()
    assert "of its sandbox" in refusal(elsewhere, plain)
    assert os.listdir(daemon.root / "images/snapshots") == []
