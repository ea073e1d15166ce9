import os
import signal
import struct
import time
from pathlib import Path

import pytest

from shim.runtime import reaper_program


def test_it_is_small_and_starts_where_its_code_is() -> None:
    image = reaper_program.for_machine("x86_64")
    assert image is not None
    assert len(image) < 200
    (entry,) = struct.unpack_from("<Q", image, 24)
    (offset, address) = struct.unpack_from("<QQ", image, 64 + 8)
    assert image[entry - address + offset] == 0xB8


def test_a_machine_without_one_is_told_apart() -> None:
    assert reaper_program.for_machine("sparc") is None


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if os.uname().machine != "x86_64":
        pytest.skip("there is a program for x86_64 only")
    image = reaper_program.for_machine("x86_64")
    assert image is not None
    path = tmp_path / "init"
    path.write_bytes(image)
    path.chmod(0o500)
    return path


def until_it_sleeps(pid: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] != "34":  # pause
        assert time.monotonic() < until


def test_it_sleeps_for_ever(program: Path) -> None:
    pid = os.posix_spawn(program, ["init"], {})
    try:
        until_it_sleeps(pid)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_it_ignores_the_end_of_children_whatever_it_was_started_with(program: Path) -> None:
    pid = os.posix_spawn(program, ["init"], {}, setsigdef=[signal.SIGCHLD])
    try:
        until_it_sleeps(pid)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (ignored,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
        assert ignored >> (signal.SIGCHLD - 1) & 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
