"""Volumes that an image declares."""

from __future__ import annotations

import dataclasses

import pytest

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, ContainerMetadata
from shim.model.image import Image, ImageConfig, ImageSpec, Platform
from shim.model.mount import Volume
from shim.services.containers.volumes import declared

IMAGE = Image("sha256:1", (), (), (), (), 1, ImageConfig(), Platform("linux", "amd64"))
CONFIG = ContainerConfig(ContainerMetadata("c"), ImageSpec("i"))


def image(*volumes: str) -> Image:
    return dataclasses.replace(IMAGE, config=ImageConfig(volumes=volumes))


def test_they_are_paths_without_needless_parts_and_each_is_made_once() -> None:
    assert declared(CONFIG, image("/data/", "data", "/var//lib/x", "/a/../b")) == [
        "/b",
        "/data",
        "/var/lib/x",
    ]


def test_not_where_the_request_or_the_runtime_mounts_something() -> None:
    config = dataclasses.replace(CONFIG, volumes=(Volume("/data/", "/host"),))
    volumes = ("/data", "/", "", "/proc", "/sys/fs/cgroup", "/dev/shm", "/development")
    assert declared(config, image(*volumes)) == ["/development"]


@pytest.mark.parametrize("volumes", [("/a\0b",), ("/" + "x" * 5000,), tuple(f"/{n}" for n in range(1000))])
def test_what_nobody_can_mean_is_refused(volumes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="image sha256:1 declares"):
        declared(CONFIG, image(*volumes))
