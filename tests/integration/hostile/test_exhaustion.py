"""Containers that take all there is: processes, memory, the log, the disk. The node goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import mount
from tests.integration.hostile.conftest import Den, den_of
from tests.integration.socket.conftest import HIERARCHY, scratch_directory

pytestmark = pytest.mark.root

MIB = 1 << 20
FEW = 300


def pids_file(path: str, name: str) -> Path:
    directory = HIERARCHY.directory("pids", path)
    assert directory is not None, "this node counts no processes"
    return Path(directory, name)


def populated(daemon: Any, id_: str) -> bool:
    path = Path(f"{HIERARCHY.unified}{daemon.cgroup(id_)}/cgroup.events")
    return path.exists() and "populated 1" in path.read_text()


@pytest.fixture
def few_processes(daemon: Any) -> Iterator[None]:
    """A bound of the test's own, above all pods: without one a fork bomb would take this machine."""
    limit = pids_file(os.path.dirname(daemon.cgroup("x")), "pids.max")
    daemon.run(daemon.run_pod())  # it is there from now on
    before = limit.read_text()
    limit.write_text(str(FEW))
    yield
    daemon.remove_all()
    with contextlib.suppress(FileNotFoundError):
        limit.write_text(before)


@pytest.mark.parametrize("limit", [40, 0])
def test_a_fork_bomb_is_its_containers_alone(den: Den, daemon: Any, few_processes: None, limit: int) -> None:
    pod = daemon.run_pod()
    # A pod's limit of processes is the kubelet's, on the pod's cgroup; this stands for it.
    id_ = den.run(pod, "sh", "-c", "while [ ! -e /tmp/go ]; do usleep 1000; done; exec evil bomb")
    if limit:
        pids_file(daemon.cgroup(id_), "pids.max").write_text(str(limit))
    daemon.exec(id_, "touch", "/tmp/go")
    current = pids_file(daemon.cgroup(id_), "pids.current")
    daemon.until(lambda: int(current.read_text()) >= (limit or FEW - 20))
    if limit:
        den.alive()
        assert int(current.read_text()) <= limit + 2
    with contextlib.suppress(grpc.RpcError):  # whether there is room for it is the container's affair
        daemon.exec(id_, "true", timeout=2)
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING
    daemon.runtime.ListContainers(cri.ListContainersRequest())
    daemon.stop(id_, timeout=1)
    assert daemon.status(id_).exit_code == 137
    daemon.until(lambda: not populated(daemon, id_))
    daemon.remove(pod[0])
    den.alive()


def test_a_container_that_fills_its_memory_ends_alone(den: Den, daemon: Any) -> None:
    pod = daemon.run_pod()
    config = den.config("sh", "-c", "x=a; while true; do x=$x$x; done")
    config.linux.resources.memory_limit_in_bytes = 24 * MIB
    config.linux.resources.memory_swap_limit_in_bytes = 24 * MIB
    other = den.run(pod, "sleep", "1000")
    status = daemon.wait(daemon.run(pod, config=config))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    config = den.config("sleep", "1000")
    config.linux.resources.CopyFrom(cri.LinuxContainerResources(memory_limit_in_bytes=24 * MIB))
    id_ = daemon.run(pod, config=config)
    with contextlib.suppress(grpc.RpcError):
        daemon.exec(id_, "sh", "-c", "dd if=/dev/zero of=/dev/shm/fill bs=1M count=200; true", timeout=20)
    assert daemon.exec(other, "echo", "alive") == "alive\n"
    den.alive()


def test_a_container_that_fills_its_log_waits_and_others_do_not(den: Den, daemon: Any) -> None:
    """Lines without an end, and ends without lines."""
    pod = daemon.run_pod()
    (logger,) = daemon.pids_of("shim.supervisor.logger")
    floods = [
        den.run(pod, "sh", "-c", "busybox head -c 60000000 /dev/zero"),
        den.run(pod, "sh", "-c", "busybox yes '' | busybox head -c 300000"),
        den.run(pod, "sh", "-c", "busybox head -c 20000000 /dev/urandom >&2"),
    ]
    den.alive()
    for id_ in floods:
        daemon.wait(id_)
    path = Path(daemon.status(floods[0]).log_path)
    daemon.until(lambda: content_bytes(path) == 60_000_000)
    assert max(map(len, path.read_bytes().split(b"\n"))) < 64 << 10
    assert resident_kib(logger) < 64 << 10
    for id_ in floods:
        Path(daemon.status(id_).log_path).unlink()


def content_bytes(path: Path) -> int:
    lines = path.read_bytes().split(b"\n")
    return sum(len(line.split(b" ", 3)[3]) for line in lines if line)


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Den]:
    """A node whose disk is small."""
    scratch, disk = scratch_directory(), tmp_path / "disk"
    disk.mkdir()
    mount.mount("small", str(disk), "tmpfs", 0, "size=32m,mode=700")
    (scratch / "root").symlink_to(disk)
    try:
        with den_of(scratch) as it:
            yield it
    finally:
        mount.umount(str(disk), mount.MNT_DETACH)


def test_a_container_that_fills_its_layer_fills_the_disk_and_can_be_removed(small: Den) -> None:
    daemon = small.daemon
    fill = "busybox cat /dev/zero >/fill; echo full; exec sleep 1000"
    pod, other = daemon.run_pod(), daemon.run_pod()
    id_ = small.run(pod, "sh", "-c", fill)
    daemon.until(lambda: not os.statvfs(daemon.root).f_bavail)
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING
    assert daemon.exec(id_, "echo", "in") == "in\n"
    with pytest.raises(grpc.RpcError) as caught:
        for _ in range(50):
            daemon.create(other, small.config("true"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    daemon.stop(id_)
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod[0]))
    daemon.until(lambda: not os.path.exists(f"{daemon.root}/network/leases/{pod[0]}.json"))
    assert daemon.status(id_).state == cri.CONTAINER_EXITED  # what fills the disk is still there
    daemon.remove(pod[0])
    assert os.statvfs(daemon.root).f_bavail
    small.alive()
    daemon.restart()
    small.alive()
