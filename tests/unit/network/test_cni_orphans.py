"""Plugins of an earlier daemon."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.network import cni_orphans
from shim.network.cni_plugin import MARK

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(mark: Path, command: str, sandbox: str) -> subprocess.Popen[bytes]:
        variables = {MARK: str(mark), "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox}
        started.append(subprocess.Popen(["sleep", "1000"], env=os.environ | variables))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_what_still_runs_is_killed_but_for_what_belongs_to_a_pod(start: Start, tmp_path: Path) -> None:
    half_way = start(tmp_path, "ADD", "new")
    deleting = start(tmp_path, "DEL", "done")
    helper = start(tmp_path, "ADD", "done")
    of_others = start(tmp_path / "other", "ADD", "new")
    assert sorted(cni_orphans.kill(str(tmp_path), {"done"})) == sorted([half_way.pid, deleting.pid])
    assert (half_way.wait(), deleting.wait()) == (-9, -9)
    assert (helper.poll(), of_others.poll()) == (None, None)


def test_processes_that_vanish_or_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "proc" / "4194304").mkdir(parents=True)
    (tmp_path / "proc" / "cpuinfo").touch()
    assert cni_orphans.kill("/records", (), str(tmp_path / "proc")) == []
