"""Layers that say nothing of most of their directories, in the most hostile forms: none takes for ever."""

from __future__ import annotations

import functools
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shim.errors import ResourceExhausted
from shim.images import deferred
from shim.images.unpack import limits, worker
from shim.images.unpack.meter import Meter
from shim.kernel import mount

pytestmark = pytest.mark.root

JOB = {
    "digest": "",
    "size": -1,
    "offset": -1,
    "diff_id": "",
    "aliases": {},
    "entries": 1 << 20,
    "bytes": 1 << 32,
}
DEEPEST = 2040  # of one-letter names, as many as a path can have
MODE = 0o2750


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


class Layers:
    """Unpacks layers on top of each other, with the code of worker and daemon, in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.below: list[str] = []

    def add(self, tar: bytes) -> str:
        place = self.directory / str(len(self.below))
        place.mkdir()
        stream = self.directory / "stream"
        stream.write_bytes(tar)
        layer_fd, source_fd = os.open(place, os.O_PATH | os.O_DIRECTORY), os.open(stream, os.O_RDONLY)
        meter, meter_fd = Meter.make()
        try:
            worker.unpack(layer_fd, source_fd, meter, JOB)
        finally:
            meter.close()
            for fd in (layer_fd, source_fd, meter_fd):
                os.close(fd)
        assert deferred.settle(str(place), self.below) == {}
        self.below.insert(0, str(place / "fs"))
        return self.below[0]


@pytest.fixture
def layers() -> Iterator[Layers]:
    """On a tmpfs that no namespace has mounted: it goes with the descriptor, however much lies on it."""
    fd = mount.new_mount("tmpfs", "tmpfs")
    yield Layers(Path(f"/proc/{os.getpid()}/fd/{fd}"))
    os.close(fd)


def directories(paths: Sequence[str]) -> list[tuple[str, Any]]:
    return [(path, {"type": tarfile.DIRTYPE, "mode": MODE, "uid": 7, "mtime": 1000}) for path in paths]


def chain(depth: int) -> list[str]:
    return ["/".join("d" * count) for count in range(1, depth + 1)]


def same(top: str, paths: Sequence[str]) -> bool:
    """Tell whether directories are like those below them."""
    fd = os.open(top, os.O_PATH)
    try:
        found = {os.stat(path, dir_fd=fd) for path in paths}
    finally:
        os.close(fd)
    return {(each.st_mode & 0o7777, each.st_uid, each.st_mtime) for each in found} == {(MODE, 7, 1000)}


def test_a_chain_as_deep_as_a_path_can_be(layers: Layers, tools: Any) -> None:
    paths = chain(DEEPEST)
    layers.add(tools.tar(*directories(paths)))
    top = layers.add(tools.tar((f"{paths[-1]}/f", b"")))
    assert same(top, paths[:1900])


def test_five_thousand_directories_in_a_deep_place(layers: Layers, tools: Any) -> None:
    deep = chain(1000)
    many = [f"{deep[-1]}/{number}" for number in range(5000)]
    layers.add(tools.tar(*directories([*deep, *many])))
    top = layers.add(tools.tar(*((f"{path}/f", b"") for path in many)))
    assert same(top, [*deep, *many])


def test_many_directories_whose_names_sort_between_those_of_others(layers: Layers, tools: Any) -> None:
    """The dash comes before the slash: in the order of names others come between it and its parent."""
    paths = [name for path in chain(600) for name in (path, f"{path}-", f"{path}-/x")]
    layers.add(tools.tar(*directories(paths)))
    top = layers.add(tools.tar(*((f"{path}/f", b"") for path in paths)))
    assert same(top, paths)


def test_ten_thousand_directories_on_several_layers(layers: Layers, tools: Any) -> None:
    paths = [f"{first}/{second}" for first in range(40) for second in range(250)]
    layers.add(tools.tar(*directories([*map(str, range(40)), *paths])))
    for number in range(3):
        top = layers.add(tools.tar(*((f"{path}/f{number}", b"") for path in paths)))
    assert same(top, [*map(str, range(40)), *paths])


def test_a_link_of_a_lower_layer_above_many_directories(layers: Layers, tools: Any) -> None:
    """All that lies below it is found where it leads, and what leads on from there as well."""
    real = [f"real/{number}" for number in range(2000)]
    layers.add(tools.tar(("l", "real"), ("on", None), *directories(["real", *real]), ("real/x", "../on")))
    place = layers.directory / "last"
    place.mkdir()
    (place / "fs").mkdir()
    implied = ["l", *(f"l/{number}" for number in range(2000)), "l/x", "l/x/y"]
    (place / "layer.json").write_text(
        json.dumps({"opaque_root": False, "implied": implied, "links": [], "made": implied})
    )
    assert deferred.settle(str(place), layers.below) == {"l": "real", "l/x": "on"}


def test_paths_that_are_long_in_sum_are_refused(layers: Layers, tools: Any) -> None:
    deep = "/".join("d" * 1900)
    with pytest.raises(ResourceExhausted, match="too many deep paths"):
        layers.add(tools.tar(*((f"{deep}/{number}/f", b"") for number in range(9000))))


def test_directories_and_files_that_replace_each_other_without_end_are_refused(
    layers: Layers, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "Limits", functools.partial(limits.Limits, looks=1_000_000))
    many = directories([str(number) for number in range(2000)])
    battle = [("x", None), ("x", b"")] * 505
    with pytest.raises(ResourceExhausted, match="replace each other too often"):
        layers.add(tools.tar(*many, *battle))
