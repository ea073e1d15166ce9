"""Paths that are something else when we use them: links of an image, and names that are exchanged.

One container holds a volume and exchanges names in it, as fast as the kernel goes; others that have the same
volume are started meanwhile. Whatever they are told, nothing of the node may be written, mounted on or shown.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.hostile.conftest import DIRECTORY, Den, link, start
from tests.integration.streaming.clients import spdy_client

pytestmark = pytest.mark.root

STARTS = 8
NULL = os.makedev(1, 3)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the node that nobody was given."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


def swapping(den: Den, volume: Path, *names: str) -> None:
    """Have a container exchange pairs of names in the volume."""
    config = den.config("evil", "swap", *(f"/v/{name}" for name in names))
    config.mounts.add(container_path="/v", host_path=str(volume))
    den.until_said(den.daemon.run(den.daemon.run_pod(), config=config), "swapping")


def refused(error: grpc.RpcError | None, *codes: grpc.StatusCode) -> bool:
    """Whether it was refused; a refusal has one of the codes."""
    assert error is None or error.code() in codes, error
    return error is not None


@pytest.mark.parametrize("leads", ["absolute", "relative", "over /proc"])
def test_links_of_an_image_lead_no_mount_out(
    den: Den, daemon: Any, outside: Path, tmp_path: Path, leads: str
) -> None:
    target = {
        "absolute": str(outside),
        "relative": "../" * 30 + str(outside)[1:],
        "over /proc": f"/proc/self/root{outside}",
    }[leads]
    image = den.image("links", ("way", link(target), b""))
    (tmp_path / "file").write_text("given\n")
    config = den.config("sh", "-c", "cat /way/file /way/made/deep/file; exec sleep 1000", image=image)
    for path in ("/way/file", "/way/made/deep/file"):
        config.mounts.add(container_path=path, host_path=str(tmp_path / "file"))
    config.working_dir = "/way/cwd"
    id_, error = start(daemon, daemon.run_pod(), config)
    if not refused(error, grpc.StatusCode.INVALID_ARGUMENT):
        daemon.until(lambda: daemon.output(id_) == ["given", "given"])
    assert os.listdir(outside) == []


def test_mount_destinations_are_exchanged_while_we_mount(
    den: Den, daemon: Any, volume: Path, outside: Path, tmp_path: Path
) -> None:
    """The class of CVE-2021-30465."""
    (volume / "dir").mkdir()
    (volume / "to-node").symlink_to(outside)
    (volume / "up").symlink_to("../" * 30 + str(outside)[1:])
    (volume / "other").mkdir()
    swapping(den, volume, "dir", "to-node", "other", "up")
    (tmp_path / "given").mkdir()
    pod, started = daemon.run_pod(), 0
    for number in range(STARTS):
        config = den.config("true")
        config.working_dir = f"/v/other/cwd{number}"
        config.mounts.add(container_path="/v", host_path=str(volume))
        for path in ("/v/dir", "/v/other", f"/v/dir/deep/{number}", f"/v/to-node/{number}"):
            config.mounts.add(container_path=path, host_path=str(tmp_path / "given"))
        _, error = start(daemon, pod, config)
        started += not refused(error, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    assert started
    assert os.listdir(outside) == []
    assert not [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(outside) in line
    ]


def test_a_terminal_is_the_containers_whatever_dev_becomes(
    den: Den, daemon: Any, volume: Path, outside: Path
) -> None:
    """The class of CVE-2025-52565: /dev/pts and /dev/console are exchanged while the terminal is opened."""
    (volume / "pts").mkdir()
    (volume / "fake").mkdir()
    (volume / "fake/ptmx").symlink_to("/dev/ptmx")
    (volume / "console").touch()
    (volume / "out").symlink_to(outside / "console")
    swapping(den, volume, "pts", "fake", "console", "out")
    theirs = set(os.listdir("/dev/pts"))
    pod, started = daemon.run_pod(), 0
    codes = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL
    for _ in range(STARTS):
        config = den.config("sh", "-c", "busybox stat -L -c '%d' /proc/self/fd/0; exec sleep 1000")
        config.tty = config.stdin = True
        config.mounts.add(container_path="/dev", host_path=str(volume))
        config.linux.security_context.masked_paths.append("/nothing")
        id_, error = start(daemon, pod, config)
        if not refused(error, *codes):
            started += 1
            daemon.until(lambda id_=id_: daemon.output(id_))
            assert int(daemon.output(id_)[0]) != os.stat("/dev/pts").st_dev, "a terminal of the node"
    assert started
    assert set(os.listdir("/dev/pts")) <= theirs
    assert os.listdir(outside) == []


def test_a_devpts_that_is_none_gives_no_terminal(den: Den, daemon: Any, volume: Path) -> None:
    """Whoever may mount puts something else where /dev/pts/ptmx is; we would open it as root."""
    os.mknod(volume / "ptmx", 0o666 | stat.S_IFCHR, os.makedev(5, 2))
    config = den.config("sh", "-c", "mount --bind /v /dev/pts && echo bound; exec sleep 1000")
    config.mounts.add(container_path="/v", host_path=str(volume))
    config.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")
    config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Unconfined
    id_ = daemon.run(daemon.run_pod(), config=config)
    daemon.until(lambda: daemon.output(id_) == ["bound"])
    assert "no devpts" in exec_tty(den, id_)


def exec_tty(den: Den, id_: str) -> str:
    """Return what the client is told of an exec with a terminal."""

    async def run() -> str:
        request = cri.ExecRequest(container_id=id_, cmd=["true"], stdout=True, tty=True)
        with den.inside():
            client = await spdy_client(den.daemon.runtime.Exec(request).url, "v4.channel.k8s.io")
        error, *_ = [await client.open(streamType=kind) for kind in ("error", "stdout", "resize")]
        told = await error.read_all()
        await client.close()
        return told.decode()

    return asyncio.run(run())


@pytest.mark.parametrize("what", ["link", "file", "other device", "nothing"])
def test_paths_are_masked_by_the_null_device_or_not_at_all(
    den: Den, daemon: Any, volume: Path, outside: Path, what: str
) -> None:
    """The class of CVE-2025-31133: what is at /dev/null is bound over what is to be hidden."""
    (outside / "secret").write_text("secret\n")
    null = volume / "null"
    if what == "link":
        null.symlink_to("/proc/sys/kernel/core_pattern")
    elif what == "file":
        null.write_text("mine\n")
    elif what == "other device":
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    config = den.config("sh", "-c", "busybox stat -c %t:%T /etc/passwd")
    config.mounts.add(container_path="/dev", host_path=str(volume))
    config.linux.security_context.masked_paths.append("/etc/passwd")
    id_, error = start(daemon, daemon.run_pod(), config)
    assert error is not None, daemon.wait(id_)
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)


def test_the_null_device_is_exchanged_while_we_mask(den: Den, daemon: Any, volume: Path) -> None:
    os.mknod(volume / "null", 0o666 | stat.S_IFCHR, NULL)
    (volume / "link").symlink_to("/proc/sysrq-trigger")
    (volume / "file").write_text("mine\n")
    swapping(den, volume, "null", "link", "null", "file")
    pod, started = daemon.run_pod(), 0
    masked = [f"/etc/{name}" for name in ("passwd", "group")]
    for _ in range(STARTS * 2):
        config = den.config("busybox", "stat", "-c", "%t:%T", *masked)
        config.mounts.add(container_path="/dev", host_path=str(volume))
        config.linux.security_context.masked_paths.extend(masked)
        id_, error = start(daemon, pod, config)
        if not refused(error, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
            started += 1
            daemon.until(lambda id_=id_: len(daemon.output(id_)) == len(masked))
            assert daemon.output(id_) == ["1:3", "1:3"]


FAKE = ("attr/exec", "attr/apparmor/exec", "oom_score_adj", "setgroups", "uid_map")


def fake_proc(directory: Path, hit: Path) -> None:
    """Make a tree that has links where /proc has files that are written to."""
    for who in ("self", "thread-self", "1", "self/task/1"):
        for name in FAKE:
            path = directory / who / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(hit)
    for name in ("sys/kernel", "sys/net"):
        (directory / name).mkdir(parents=True)


@pytest.mark.parametrize("at", ["/proc/self", "/proc/1", "/proc/self/attr", "/proc/self/oom_score_adj"])
def test_volumes_over_proc_redirect_nothing(den: Den, daemon: Any, volume: Path, at: str) -> None:
    """The classes of CVE-2019-16884 and CVE-2025-52881: what we write to /proc lands somewhere else."""
    fake_proc(volume, Path("/v/hit"))
    (volume / "hit").touch()
    source = volume / at.removeprefix("/proc/")
    if at.endswith("oom_score_adj"):
        source = volume / "hit"
    config = den.config("sleep", "1000")
    config.mounts.add(container_path="/v", host_path=str(volume))
    config.mounts.add(container_path=at, host_path=str(source))
    config.linux.resources.oom_score_adj = 345
    id_, error = start(daemon, daemon.run_pod(), config)
    if not refused(error, grpc.StatusCode.INVALID_ARGUMENT):
        assert Path(f"/proc/{daemon.pid(id_)}/oom_score_adj").read_text() == "345\n"
        daemon.exec(id_, "true")
    assert (volume / "hit").read_text() == ""


@pytest.mark.parametrize("user", [0, 1000])
def test_no_file_of_proc_says_what_a_process_may_do(den: Den, daemon: Any, volume: Path, user: int) -> None:
    """A volume over files that tell of capabilities: who believes them drops too few."""
    (volume / "kernel").mkdir()
    (volume / "kernel/cap_last_cap").write_text("0\n")
    (volume / "self").mkdir()
    (volume / "self/status").write_text("CapBnd:\t0000000000000000\n")
    config = den.config("sleep", "1000")
    config.linux.security_context.run_as_user.value = user
    config.linux.security_context.capabilities.drop_capabilities.append("ALL")
    config.mounts.add(container_path="/proc/sys/kernel", host_path=str(volume / "kernel"))
    config.mounts.add(container_path="/proc/self", host_path=str(volume / "self"))
    id_ = daemon.run(daemon.run_pod(), config=config)
    status = Path(f"/proc/{daemon.pid(id_)}/status").read_text().splitlines()
    sets = {line.split()[0]: int(line.split()[1], 16) for line in status if line.startswith("Cap")}
    assert set(sets.values()) == {0}, sets


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_with_a_link_where_a_file_system_of_ours_goes_is_refused(
    den: Den, daemon: Any, volume: Path, name: str
) -> None:
    """It could lead into a volume, where somebody else moves our mount and puts in his own tree."""
    fake_proc(volume / "fake", Path("/v/hit"))
    (volume / "hit").touch()
    (volume / "real").mkdir()
    swapping(den, volume, "real", "fake")
    image = den.image(f"linked-{name}", (name, link("/v/real"), b""), ("v", DIRECTORY, b""))
    for user in (False, True) if den.has_user_namespaces() else (False,):
        pod = daemon.run_pod(user_namespace(daemon) if user else None)
        config = den.config("sleep", "1000", image=image)
        if user:
            asked = pod[1].linux.security_context.namespace_options
            config.linux.security_context.namespace_options.CopyFrom(asked)
        config.mounts.add(container_path="/v", host_path=str(volume))
        _, error = start(daemon, pod, config)
        assert refused(error, grpc.StatusCode.INVALID_ARGUMENT)
        assert f"/{name}" in error.details()
    assert (volume / "hit").read_text() == ""


def user_namespace(daemon: Any) -> cri.PodSandboxConfig:
    ids = [cri.IDMapping(host_id=200_000, container_id=0, length=65_536)]
    config = daemon.pod_config()
    options = config.linux.security_context.namespace_options
    options.userns_options.CopyFrom(cri.UserNamespace(mode=cri.POD, uids=ids, gids=ids))
    return config


def test_sysctls_reach_the_pods_own_namespaces_alone(den: Den, daemon: Any) -> None:
    before = Path("/proc/sys/kernel/shmmax").read_text(), Path("/proc/sys/kernel/domainname").read_text()
    config = daemon.pod_config()
    config.linux.sysctls["kernel.shmmax"] = "4096"
    id_ = den.run(daemon.run_pod(config), "sleep", "1000")
    assert daemon.exec(id_, "cat", "/proc/sys/kernel/shmmax") == "4096\n"
    script = "echo 1 >/proc/sys/kernel/shmmax || echo x >/proc/sys/kernel/core_pattern || echo refused"
    assert daemon.exec(id_, "sh", "-c", script) == "refused\n"
    after = Path("/proc/sys/kernel/shmmax").read_text(), Path("/proc/sys/kernel/domainname").read_text()
    assert after == before


def test_files_that_fill_a_volume_of_an_image_are_copied_as_they_are(
    den: Den, daemon: Any, outside: Path
) -> None:
    """The class of CVE-2022-23648: what the image has in the place of a volume is copied by us, as root."""
    (outside / "secret").write_text("of the node\n")
    image = den.image(
        "copied",
        ("data", DIRECTORY, b""),
        ("data/file", link(str(outside / "secret")), b""),
        ("data/dir", link(str(outside)), b""),
        ("data/dev", link("/proc/self/root"), b""),
        ("way", link("../" * 20 + str(outside)[1:]), b""),
        Volumes={"/data": {}, "/way": {}, "/data/dir/x": {}},
    )
    id_, error = start(daemon, daemon.run_pod(), den.config("sleep", "1000", image=image))
    if not refused(error, grpc.StatusCode.INVALID_ARGUMENT):
        assert "of the node" not in daemon.exec(
            id_, "sh", "-c", "cat /data/file /way/secret 2>/dev/null; true"
        )
        assert daemon.exec(id_, "busybox", "readlink", "/data/file").strip() == str(outside / "secret")
    assert os.listdir(outside) == ["secret"]


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "directory"])
def test_files_of_names_are_read_as_files_of_the_image(den: Den, daemon: Any, kind: str) -> None:
    there = {
        "link": link("/proc/self/fd/0"),
        "pipe": {"type": tarfile.FIFOTYPE, "mode": 0o644},
        "device": {"type": tarfile.CHRTYPE, "mode": 0o644, "devmajor": 1, "devminor": 5},
        "directory": DIRECTORY,
    }[kind]
    image = den.image(f"names-{kind}", ("etc/passwd", there, b""), ("etc/group", there, b""))
    id_, error = start(daemon, daemon.run_pod(), den.config("echo", "started", image=image))
    assert error is None
    daemon.until(lambda: daemon.output(id_) == ["started"])
