"""Announcements, against somebody who has taken the second stage's copy of the socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from shim.kernel import process, unix
from shim.model.container import ExitRecord
from shim.runtime import init
from shim.supervisor.children import Children
from shim.supervisor.forks import Forks
from shim.supervisor.loop import Loop
from shim.supervisor.protocol import EXEC, ChildInfo, Fork


def announce(fd: int, pid: int, pidfd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        unix.send_message(sock, init.ANNOUNCEMENT.pack(pid), [pidfd])


def attacked(_: bytes, fds: Mapping[str, int]) -> NoReturn:
    """Be a first stage whose socket a stranger has, who speaks first."""
    pid, pidfd = process.clone3(process.CLONE_PARENT)
    if pid == 0:
        os.close(fds["announce"])
        signal.alarm(60)  # should the test fail, and kill somebody else
        signal.pause()
    stranger = os.fork()
    if stranger == 0:
        me = os.getpid()
        for _ in range(5):
            announce(fds["announce"], me, os.pidfd_open(me))
        os._exit(0)
    os.waitpid(stranger, 0)
    announce(fds["announce"], pid, pidfd)
    os._exit(0)


def test_only_the_first_stage_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "run", attacked)
    loop = Loop()
    records: list[ExitRecord] = []
    born: list[ChildInfo] = []
    children = Children(loop, str(tmp_path), records.append)
    forks = Forks(loop, children)
    forks.start(Fork(1, "exec", EXEC, ()), {"plan": unix.sealed_memfd("plan", b"")}, born.append)
    while not born:
        loop.turn(10)
    pid = born[0].pid
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        assert f"PPid:\t{os.getpid()}" in status
    finally:
        children.kill("exec")
    while not records:
        loop.turn(10)
    assert records[0].signal == signal.SIGKILL
    forks.drop_spares()
    forks.reap_stages()
