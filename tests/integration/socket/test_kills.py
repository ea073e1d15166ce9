"""Daemon, supervisor and logger are killed while pods run: nothing is lost, nothing is invented."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

COUNT = "i=0; while true; do echo line $i; i=$((i+1)); usleep 5000; done"
SUPERVISOR, LOGGER = "shim.supervisor.main", "shim.supervisor.logger"


@pytest.fixture
def counting(daemon: Any) -> list[str]:
    return [daemon.run(daemon.run_pod(), "sh", "-c", COUNT) for _ in range(5)]


def assert_whole(daemon: Any, ids: list[str]) -> None:
    for id_ in ids:
        lines = daemon.output(id_)
        assert lines == [f"line {i}" for i in range(len(lines))]


def answers(daemon: Any, id_: str) -> bool:
    """Run something in a container; False where that is lost with a process that was killed."""
    try:
        return bool(daemon.exec(id_, "echo", "in") == "in\n")
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def is_over(pid: int) -> bool:
    """Tell whether a process has ended; who reaps it may be gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_usable(daemon: Any, ids: list[str], pids: list[int]) -> None:
    assert [daemon.pid(id_) for id_ in ids] == pids
    for id_ in ids:
        daemon.until(lambda id_=id_: answers(daemon, id_))
    before = [len(daemon.output(id_)) for id_ in ids]
    daemon.until(lambda: all(len(daemon.output(id_)) > n for id_, n in zip(ids, before, strict=True)))


def test_the_daemon_is_killed_again_and_again(daemon: Any, counting: list[str]) -> None:
    pids = [daemon.pid(id_) for id_ in counting]
    for _ in range(3):
        daemon.restart()
        assert_usable(daemon, counting, pids)
    assert_whole(daemon, counting)


@pytest.mark.parametrize("victims", [(LOGGER,), (SUPERVISOR,), (SUPERVISOR, LOGGER)])
def test_what_stands_behind_the_daemon_is_killed(
    daemon: Any, counting: list[str], victims: tuple[str, ...]
) -> None:
    pids = [daemon.pid(id_) for id_ in counting]
    before = {daemon.pids_of(victim)[0] for victim in victims}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    daemon.until(lambda: all(set(daemon.pids_of(victim)) - before for victim in victims))
    assert_usable(daemon, counting, pids)
    assert_whole(daemon, counting)
    daemon.stop(counting[0])
    assert daemon.status(counting[0]).exit_code == 137


@pytest.mark.parametrize("also", [None, SUPERVISOR])
def test_an_end_while_nobody_looked_is_told_as_it_was(daemon: Any, also: str | None) -> None:
    pod = daemon.run_pod()
    wait = "while [ ! -e /tmp/go ]; do usleep 10000; done; exit 5"
    killed, ended = daemon.run(pod), daemon.run(pod, "sh", "-c", wait)
    pids = [daemon.pid(killed), daemon.pid(ended)]
    daemon.end(signal.SIGKILL)
    if also:
        os.kill(daemon.pids_of(also)[0], signal.SIGKILL)
    os.kill(pids[0], signal.SIGKILL)
    Path(f"/proc/{pids[1]}/root/tmp/go").touch()
    daemon.until(lambda: all(map(is_over, pids)))
    daemon.start()
    assert (daemon.wait(killed).exit_code, daemon.wait(ended).exit_code) in {(137, 5), (255, 255)}
    assert daemon.status(killed).reason in {"Error", "Unknown"}
    assert 0 < daemon.status(ended).finished_at <= time.time_ns()


def test_pods_come_and_go_and_leave_nothing(daemon: Any) -> None:
    def cycle() -> None:
        mapping = cri.PortMapping(container_port=80, host_port=18080)
        pod = daemon.run_pod(daemon.pod_config(port_mappings=[mapping]))
        id_ = daemon.run(pod)
        daemon.exec(id_, "true")
        daemon.stop(id_)
        daemon.remove(pod[0])

    for _ in range(3):
        cycle()
    before = daemon.settled()
    for _ in range(20):
        cycle()
    daemon.until_again(before)
