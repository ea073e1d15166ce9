"""Host paths as volumes: what is followed, what is made, what is refused, and what never answers."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import mount
from tests.integration.socket.conftest import running, scratch_directory

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon() -> Iterator[Any]:
    with running(scratch_directory(), "--set=container.volume_timeout_s=3") as it:
        yield it


def with_volume(daemon: Any, host_path: Path | str, target: str = "/v", **more: Any) -> cri.ContainerConfig:
    config = daemon.container_config()
    config.mounts.add(container_path=target, host_path=str(host_path), **more)
    return config


def start_refused(daemon: Any, config: cri.ContainerConfig) -> tuple[grpc.StatusCode, str]:
    id_ = daemon.create(daemon.run_pod(), config)
    with pytest.raises(grpc.RpcError) as caught:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    return caught.value.code(), caught.value.details()


def test_links_of_the_host_are_followed_and_links_of_the_image_are_not_left(
    daemon: Any, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("here\n")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-file").symlink_to("real/file")
    config = with_volume(daemon, tmp_path / "link")
    config.mounts.add(container_path="/dev/termination-log", host_path=str(tmp_path / "to-file"))
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.exec(id_, "cat", "/v/file", "/dev/termination-log") == "here\nhere\n"
    daemon.exec(id_, "sh", "-c", "echo why >/dev/termination-log")
    assert (tmp_path / "real/file").read_text() == "why\n"


def test_a_missing_directory_is_made_and_a_dangling_link_is_not_followed(daemon: Any, tmp_path: Path) -> None:
    daemon.run(daemon.run_pod(), config=with_volume(daemon, tmp_path / "a/b"))
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755
    (tmp_path / "dangling").symlink_to("nowhere")
    code, text = start_refused(daemon, with_volume(daemon, tmp_path / "dangling"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"{tmp_path}/dangling is a link that leads nowhere" in text
    assert not (tmp_path / "nowhere").exists()


def test_the_nodes_dev_gets_terminals_of_its_own(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=with_volume(daemon, "/dev", "/dev"))
    kinds = dict(line.split()[1:3] for line in daemon.exec(id_, "cat", "/proc/mounts").splitlines())
    assert kinds["/dev/pts"] == "devpts"
    assert "0" not in daemon.exec(id_, "ls", "/dev/pts").split()


def test_mount_options(daemon: Any, tmp_path: Path) -> None:
    options = ["noexec", "nosuid", "nodev", "ro", "nosymfollow"]
    id_ = daemon.run(daemon.run_pod(), config=with_volume(daemon, tmp_path, mount_options=options))
    line = next(line for line in daemon.exec(id_, "cat", "/proc/mounts").splitlines() if " /v " in line)
    assert set(options) <= set(line.split()[3].split(","))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(daemon.run_pod(), with_volume(daemon, tmp_path, mount_options=["size=1k"]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'size=1k'" in caught.value.details()


def test_a_volume_with_an_id_map_in_a_pod_without_user_namespace(daemon: Any) -> None:
    volume = daemon.scratch / "mapped"  # on a disk: memory file systems take no id map before Linux 6.3
    volume.mkdir()
    (volume / "file").touch()
    ids = [cri.IDMapping(container_id=0, host_id=1000, length=1)]
    config = with_volume(daemon, volume, uidMappings=ids, gidMappings=ids)
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.exec(id_, "sh", "-c", "stat -c %u:%g /v/file") == "1000:1000\n"


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A file system whose server never answers."""
    point = tmp_path / "dead"
    point.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    mount.mount("dead", str(point), "fuse", 0, f"fd={server},rootmode=40000,user_id=0,group_id=0")
    yield point
    mount.umount(str(point), mount.MNT_DETACH)
    os.close(server)


def test_a_file_server_that_does_not_answer_costs_one_start(daemon: Any, dead: Path) -> None:
    began = time.monotonic()
    code, text = start_refused(daemon, with_volume(daemon, dead / "sub"))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"cannot open the volume {dead}/sub: it takes longer than 3 s" in text
    assert time.monotonic() - began < 30
    id_ = daemon.run(daemon.run_pod(), config=with_volume(daemon, dead.parent))
    assert daemon.exec(id_, "sh", "-c", "echo alive") == "alive\n"
    assert not [pid for pid in daemon.pids_of("shim.supervisor.main") if state_of(pid) in "DZ"]
    daemon.remove_all()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_files_of_the_pod_come_where_an_image_has_links_that_lead_nowhere(daemon: Any) -> None:
    """As systemd's images have /etc/resolv.conf."""
    directory = {"type": tarfile.DIRTYPE, "mode": 0o755}
    link = "../run/systemd/resolve/stub-resolv.conf"
    layer = daemon.tar(
        ("bin", directory, b""),
        ("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()),
        *(
            (f"bin/{name}", {"type": tarfile.SYMTYPE, "linkname": "busybox"}, b"")
            for name in ("cat", "sleep")
        ),
        ("etc", directory, b""),
        ("etc/resolv.conf", {"type": tarfile.SYMTYPE, "linkname": link}, b""),
    )
    daemon.load("example.com/test/links:1", {"Env": ["PATH=/bin"]}, layer)
    asked = daemon.container_config("sleep", "1000")
    asked.image.image = "example.com/test/links:1"
    config = daemon.pod_config()
    config.dns_config.servers.append("192.0.2.53")
    id_ = daemon.run(daemon.run_pod(config), config=asked)
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"):
        assert daemon.exec(id_, "cat", path) == "nameserver 192.0.2.53\n"
