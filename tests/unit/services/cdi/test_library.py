from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.services.cdi.library import Library


def write(path: Path, *devices: str, kind: str = "v.com/c", env: str = "X=1") -> None:
    path.parent.mkdir(exist_ok=True)
    entries = [{"name": name, "containerEdits": {"env": [env]}} for name in devices]
    path.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": entries}))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library((str(tmp_path / "etc"), str(tmp_path / "run")))


def test_nothing_is_there_at_first(library: Library) -> None:
    assert library.find(()) == []
    with pytest.raises(InvalidArgument, match=r"'v\.com/c=a'.*known are: none"):
        library.find(("v.com/c=a",))


def test_devices_come_in_the_order_asked_for(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "etc" / "v.json", "a", "b")
    write(tmp_path / "run" / "w.json", "a", kind="w.com/c")
    found = library.find(("w.com/c=a", "v.com/c=b"))
    assert [(os.path.basename(each.path), each.device.name) for each in found] == [
        ("w.json", "a"),
        ("v.json", "b"),
    ]
    with pytest.raises(InvalidArgument, match=r"known are: v\.com/c=a, v\.com/c=b, w\.com/c=a"):
        library.find(("v.com/c=c",))


def test_a_later_directory_goes_before_an_earlier_one(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "run" / "z.json", "a", env="X=run")
    write(tmp_path / "etc" / "a.json", "a", "b", env="X=etc")
    found = library.find(("v.com/c=a", "v.com/c=b"))
    assert [each.device.container_edits.env for each in found] == [("X=run",), ("X=etc",)]


def test_two_files_of_one_directory_are_in_conflict(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "etc" / "1.json", "a", "b")
    write(tmp_path / "etc" / "2.json", "a")
    with pytest.raises(FailedPrecondition, match=r"1\.json and .*2\.json"):
        library.find(("v.com/c=a",))
    assert library.find(("v.com/c=b",))
    write(tmp_path / "run" / "3.json", "a")
    assert library.find(("v.com/c=a",))[0].path.endswith("3.json")


def test_a_file_is_read_again_only_when_it_has_changed(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "etc" / "v.json"
    write(path, "a")
    first = library.find(("v.com/c=a",))[0]
    assert library.find(("v.com/c=a",))[0].specification is first.specification
    write(path, "a", "b")
    assert library.find(("v.com/c=b",))
    path.write_text("{")
    for _ in range(3):
        with pytest.raises(InvalidArgument, match=r"v\.json cannot be used: no JSON"):
            library.find(("v.com/c=a",))
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert str(path) in warned[0].getMessage()
    path.unlink()
    with pytest.raises(InvalidArgument) as caught:
        library.find(("v.com/c=a",))
    assert "cannot be used" not in str(caught.value)


def test_a_broken_file_hinders_nobody_else(library: Library, tmp_path: Path) -> None:
    write(tmp_path / "etc" / "good.json", "a")
    (tmp_path / "etc" / "bad.yaml").write_text("a: [")
    (tmp_path / "etc" / "dir.json").mkdir()
    (tmp_path / "etc" / "gone.json").symlink_to("nowhere")
    (tmp_path / "etc" / "notes.txt").write_text("x")
    assert library.find(("v.com/c=a",))
