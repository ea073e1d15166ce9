"""Volumes that an image declares: each container has its own, filled from the image, and gone with it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

NAME = "example.com/test/volumes:1"
DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}
OWNED = {"type": tarfile.DIRTYPE, "mode": 0o2750, "uid": 1000, "gid": 2000}


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def load(daemon: Any, *volumes: str, more: tuple[Any, ...] = (), name: str = NAME) -> str:
    busybox = Path("/bin/busybox").read_bytes()
    layer = daemon.tar(
        ("bin", DIRECTORY, b""),
        ("bin/busybox", {"mode": 0o755}, busybox),
        *((f"bin/{name}", link("busybox"), b"") for name in ("sh", "cat", "ls", "sleep", "stat", "readlink")),
        ("data", OWNED, b""),
        ("data/file", {"mode": 0o640, "uid": 1000, "gid": 2000}, b"of the image\n"),
        ("data/hard", {"type": tarfile.LNKTYPE, "linkname": "data/file"}, b""),
        ("data/out", link("/etc/shadow"), b""),
        *more,
    )
    config = {"Env": ["PATH=/bin"], "Volumes": {path: {} for path in volumes}}
    return daemon.load(name, config, layer)


def config(daemon: Any, image: str) -> cri.ContainerConfig:
    asked = daemon.container_config()
    asked.image.image = image
    return asked


def test_it_begins_as_a_copy_and_is_the_containers_own(daemon: Any) -> None:
    image = load(daemon, "/data", "/fresh/deep")
    pod = daemon.run_pod()
    one, two = (daemon.run(pod, config=config(daemon, image)) for _ in range(2))
    script = "stat -c '%a %u:%g %h' /data /data/file; cat /data/hard; readlink /data/out; ls -A /fresh/deep"
    seen = daemon.exec(one, "sh", "-c", script)
    assert seen == "2750 1000:2000 2\n640 1000:2000 2\nof the image\n/etc/shadow\n"
    daemon.exec(one, "sh", "-c", "echo mine >/data/file; echo >/fresh/deep/x")
    assert daemon.exec(two, "cat", "/data/file") == "of the image\n"
    upper = daemon.root / "images/snapshots" / one
    assert not (upper / "fs/data/file").exists()
    assert (upper / "volumes/0/file").read_text() == "mine\n"
    daemon.remove(pod[0])
    assert os.listdir(daemon.root / "images/snapshots") == []


def test_what_the_pod_mounts_there_counts(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs\n")
    asked = config(daemon, load(daemon, "/data/"))
    asked.mounts.add(container_path="/data", host_path=str(tmp_path))
    id_ = daemon.run(daemon.run_pod(), config=asked)
    assert daemon.exec(id_, "ls", "/data") == "theirs\n"
    assert not (daemon.root / "images/snapshots" / id_ / "volumes").exists()


def test_a_link_of_the_image_leads_to_nothing_of_the_node(daemon: Any) -> None:
    """The class of CVE-2022-23648: a declared volume whose path goes over links."""
    more = (
        ("escape", link("../../../../../../../../etc"), b""),
        ("proc-root", link("/proc/self/root/etc"), b""),
        ("etc", DIRECTORY, b""),
        ("etc/mine", {}, b"the image\n"),
    )
    image = load(daemon, "/escape", "/proc-root/cri-shim", more=more, name="example.com/test/hostile:1")
    id_ = daemon.run(daemon.run_pod(), config=config(daemon, image))
    seen = daemon.exec(id_, "sh", "-c", "ls -A /escape/")
    assert "shadow" not in seen
    assert "mine" in seen
    volumes = daemon.root / "images/snapshots" / id_ / "volumes"
    contents = {name: set(os.listdir(volumes / name)) for name in os.listdir(volumes)}
    assert contents == {"0": {"mine", "hosts", "hostname", "resolv.conf"}, "1": set()}


def test_a_volume_in_place_of_a_file_is_refused(daemon: Any) -> None:
    image = load(daemon, "/data/file", name="example.com/test/file:1")
    id_ = daemon.create(daemon.run_pod(), config(daemon, image))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fill the image's volume /data/file" in caught.value.details()
