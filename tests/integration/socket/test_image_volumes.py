"""Images as volumes: what a container sees of them, and what is refused."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

DATA = "example.com/test/data:1"
DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


@pytest.fixture(scope="module")
def data(daemon: Any) -> str:
    """An image of two layers with links in all directions."""
    below = daemon.tar(
        ("sub", DIRECTORY, b""),
        ("sub/file", {"mode": 0o644}, b"below\n"),
        ("sub/gone", {"mode": 0o644}, b"gone\n"),
        ("sub/busybox", {"mode": 0o4755}, Path("/bin/busybox").read_bytes()),
        ("absolute", link("/sub"), b""),
        ("out", link("../../../../etc"), b""),
        ("proc", link("/proc/self/root"), b""),
        ("loop", link("loop"), b""),
    )
    above = daemon.tar(
        ("sub/file", {"mode": 0o644}, b"above\n"), ("sub/.wh.gone", {}, b""), ("etc", DIRECTORY, b"")
    )
    return daemon.load(DATA, {}, below, above)


def with_volume(
    daemon: Any, image: str = DATA, path: str = "", command: tuple[str, ...] = ()
) -> cri.ContainerConfig:
    config = daemon.container_config(*command)
    config.mounts.add(
        container_path="/data", image=cri.ImageSpec(image=image), image_sub_path=path, readonly=True
    )
    return config


def test_a_container_sees_the_image_and_cannot_change_it(daemon: Any, data: str) -> None:
    id_ = daemon.run(daemon.run_pod(), config=with_volume(daemon))
    assert daemon.exec(id_, "sh", "-c", "cat /data/sub/*e; ls /data/sub") == "above\nbusybox\nfile\n"
    assert "Read-only" in daemon.exec(id_, "sh", "-c", "(echo >/data/x) 2>&1; true")
    assert daemon.exec(id_, "/data/sub/busybox", "echo", "runs") == "runs\n"
    options = next(
        line.split()[5]
        for line in Path(f"/proc/{daemon.pid(id_)}/mountinfo").read_text().splitlines()
        if line.split()[4] == "/data"
    )
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    assert "noexec" not in options
    (mount,) = daemon.status(id_).mounts
    assert (mount.image.image, mount.image.image_ref, mount.container_path) == (DATA, data, "/data")


@pytest.mark.parametrize(
    ("path", "script", "seen"),
    [
        ("sub", "ls", "busybox\nfile\n"),
        ("/sub/", "ls", "busybox\nfile\n"),
        ("absolute", "ls", "busybox\nfile\n"),
        ("sub/file", "cat", "above\n"),
        ("out", "ls -A", ""),
    ],
)
def test_a_part_of_an_image(daemon: Any, data: str, path: str, script: str, seen: str) -> None:
    """Links lead as they would in a container of the image: never to the node."""
    id_ = daemon.run(daemon.run_pod(), config=with_volume(daemon, path=path))
    assert daemon.exec(id_, "sh", "-c", f"{script} /data") == seen


@pytest.mark.parametrize("path", ["missing", "sub/gone", "sub/file/x", "proc/etc", "loop", "../etc", "a/.."])
def test_a_part_that_is_not_there_is_refused(daemon: Any, data: str, path: str) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, with_volume(daemon, path=path))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("ImageVolumeMountFailed: the mount on '/data'")
    assert not (os.listdir(daemon.root / "containers"))


def test_an_image_that_is_not_here_is_refused(daemon: Any) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, with_volume(daemon, "example.com/test/none:1"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details().startswith("ImageVolumeMountFailed: ")
    assert os.listdir(daemon.root / "images/snapshots") == []


def test_a_volume_outlives_its_image(daemon: Any) -> None:
    """The layers go with the last container that has them, whether it was started before or after."""
    id_ = daemon.load("example.com/test/short:1", {}, daemon.tar(("only", {}, b"here\n")))
    layers = set(os.listdir(daemon.root / "images/layers"))
    pod = daemon.run_pod()
    early = daemon.run(pod, config=with_volume(daemon, id_))
    late = daemon.create(pod, with_volume(daemon, id_))
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=id_)))
    daemon.restart()
    daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=late))
    for container in (early, late):
        assert daemon.exec(container, "cat", "/data/only") == "here\n"
    assert set(os.listdir(daemon.root / "images/layers")) == layers
    daemon.remove(pod[0])
    assert len(set(os.listdir(daemon.root / "images/layers"))) == len(layers) - 1


def test_an_empty_image_and_the_same_image_twice(daemon: Any, data: str) -> None:
    empty = daemon.load("example.com/test/empty:1", {})
    config = with_volume(daemon, empty)
    for target, path in (("/a", ""), ("/b", "sub")):
        config.mounts.add(
            container_path=target, image=cri.ImageSpec(image=DATA), image_sub_path=path, readonly=True
        )
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.exec(id_, "sh", "-c", "ls /data; ls /b; cat /a/sub/file") == "busybox\nfile\nabove\n"
