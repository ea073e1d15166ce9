from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.cgroups.open_files import OpenFiles
from shim.errors import KernelError


@pytest.fixture
def mount(tmp_path: Path) -> str:
    for number in range(4):
        (tmp_path / f"pod{number}").mkdir()
        (tmp_path / f"pod{number}" / "usage").write_text(f"{number}\n")
    return str(tmp_path)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_opened_once_and_says_what_is_new(mount: str) -> None:
    files, before = OpenFiles(8), descriptors()
    assert files.read(mount, "/pod1", "usage") == b"1\n"
    Path(mount, "pod1/usage").write_text("7\n")
    assert files.read(mount, "/pod1", "usage") == b"7\n"
    assert len(files) == descriptors() - before == 1
    files.close()
    assert len(files) == descriptors() - before == 0


def test_a_long_file_comes_whole(mount: str) -> None:
    data = "".join(f"{pid}\n" for pid in range(40_000))
    Path(mount, "pod1/cgroup.procs").write_text(data)
    files = OpenFiles(8)
    for _ in range(2):
        assert files.read(mount, "/pod1", "cgroup.procs") == data.encode()
    files.close()


def test_no_more_than_there_is_room_for_is_kept_open(mount: str) -> None:
    files, before = OpenFiles(2), descriptors()
    for _ in range(2):
        assert [files.read(mount, f"/pod{n}", "usage") for n in range(4)] == [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert descriptors() - before == 2
    files.keep(("/pod0", "/pod3"))
    assert len(files) == 1
    files.read(mount, "/pod3", "usage")
    assert len(files) == descriptors() - before == 2
    files.close()


def test_what_nobody_reads_is_closed(mount: str) -> None:
    files, everything = OpenFiles(8), ("/pod0", "/pod1")
    files.read(mount, "/pod0", "usage")
    for _ in range(10):
        files.read(mount, "/pod1", "usage")
        files.keep(everything)
    assert len(files) == 1
    files.close()


def test_a_file_that_is_not_there_is_named(mount: str) -> None:
    files = OpenFiles(8)
    with pytest.raises(KernelError, match="/pod9/usage"):
        files.read(mount, "/pod9", "usage")
    assert len(files) == 0


def test_files_that_are_forgotten_while_they_are_read_are_closed(mount: str) -> None:
    files, before, over = OpenFiles(8), descriptors(), threading.Event()

    def forget() -> None:
        while not over.is_set():
            files.forget("/pod1")

    with ThreadPoolExecutor(2) as threads:
        forgetting = [threads.submit(forget) for _ in range(2)]
        try:
            assert {files.read(mount, "/pod1", "usage") for _ in range(5000)} == {b"1\n"}
        finally:
            over.set()
    for each in forgetting:
        each.result()
    files.forget("/pod1")
    assert len(files) == descriptors() - before == 0
