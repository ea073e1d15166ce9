"""A damaged layer: told, its image not listed, mended by loading it again, while its container goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim._proto import images_pb2 as own
from shim.cli.client import Stub

pytestmark = pytest.mark.root

NAME = "example.com/test/verified:1"
DIRECTORY = {"type": b"5", "mode": 0o755}


def load(daemon: Any) -> str:
    layer = daemon.tar(
        ("bin", DIRECTORY, b""),
        ("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()),
        ("bin/cat", {"type": b"2", "linkname": "busybox"}, b""),
        ("bin/sleep", {"type": b"2", "linkname": "busybox"}, b""),
        ("file", {"mode": 0o644}, b"whole"),
    )
    return daemon.load(NAME, {"Env": ["PATH=/bin"]}, layer)


def is_listed(daemon: Any) -> bool:
    request = cri.ImageStatusRequest(image=cri.ImageSpec(image=NAME))
    return daemon.images.ImageStatus(request).HasField("image")


def test_a_damaged_image_is_absent_until_it_is_loaded_again(daemon: Any) -> None:
    files = Stub(daemon.channel, own, "Images")
    load(daemon)
    pod = daemon.run_pod()
    config = daemon.container_config("sleep", "1000")
    config.image.image = NAME
    container = daemon.create(pod, config)
    daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=container))
    (lower,) = Path(daemon.root).glob("images/layers/*/fs/file")
    lower.chmod(0o666)
    (found,) = [each for each in files.Verify(own.VerifyRequest(names=[NAME])) if each.problems]
    assert found.problems == ["'file': its mode is 666 instead of 644"]
    assert list(found.containers) == [container]
    assert not is_listed(daemon)
    load(daemon)
    assert is_listed(daemon)
    assert lower.stat().st_mode & 0o777 == 0o644
    assert not [each for each in files.Verify(own.VerifyRequest()) if each.problems]
    assert daemon.exec(container, "cat", "/file") == "whole"
    daemon.remove_all()
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=NAME)))
