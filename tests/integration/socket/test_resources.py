"""Limits of a container as a kubelet asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy
from shim.kernel import capabilities, proc

pytestmark = pytest.mark.root

Code = grpc.StatusCode
MIB = 1 << 20
HIERARCHY = hierarchy.detect(proc.mountinfo())
V1 = bool(HIERARCHY.v1)


def container(daemon: Any, **fields: Any) -> cri.ContainerConfig:
    config = daemon.container_config("sleep", "1000")
    for key, value in fields.items():
        if key in ("hugepage_limits", "unified"):
            continue
        setattr(config.linux.resources, key, value)
    for size, limit in fields.get("hugepage_limits", ()):
        config.linux.resources.hugepage_limits.add(page_size=size, limit=limit)
    config.linux.resources.unified.update(fields.get("unified", {}))
    return config


def update(daemon: Any, id_: str, **fields: Any) -> None:
    linux = container(daemon, **fields).linux.resources
    daemon.runtime.UpdateContainerResources(
        cri.UpdateContainerResourcesRequest(container_id=id_, linux=linux)
    )


def limits(daemon: Any, id_: str) -> dict[str, str]:
    """Return what the cgroup files say, under version 1's names."""
    found = {}
    names = (
        ("cpu", ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight", "cpu.max")),
        ("memory", ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")),
        ("cpuset", ("cpuset.cpus", "cpuset.mems")),
    )
    for controller, files in names:
        directory = HIERARCHY.directory(controller, daemon.cgroup(id_))
        for name in files:
            if directory is not None and os.path.exists(f"{directory}/{name}"):
                found[name] = Path(f"{directory}/{name}").read_text().strip()
    return found


FULL = {
    "cpu_period": 50_000,
    "cpu_quota": 25_000,
    "cpu_shares": 512,
    "memory_limit_in_bytes": 64 * MIB,
    "memory_swap_limit_in_bytes": 64 * MIB,
    "oom_score_adj": 500,
    "cpuset_cpus": "0",
    "cpuset_mems": "0",
}


def test_limits_are_in_force_and_told_in_the_kubelets_words(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, **FULL))
    found = limits(daemon, id_)
    if V1:
        assert (found["cpu.shares"], found["cpu.cfs_quota_us"], found["cpu.cfs_period_us"]) == (
            *("512", "25000", "50000"),
        )
        assert found["memory.limit_in_bytes"] == str(64 * MIB)
    else:
        assert (found["cpu.weight"], found["cpu.max"]) == ("20", "25000 50000")
        assert (found["memory.max"], found["memory.swap.max"]) == (str(64 * MIB), "0")
    assert found["cpuset.cpus"] == "0"
    told = daemon.status(id_).resources.linux
    assert {key: getattr(told, key) for key in FULL} == FULL
    assert daemon.exec(id_, "cat", "/proc/1/oom_score_adj").strip() == "500"
    assert daemon.exec(id_, "cat", "/proc/self/oom_score_adj").strip() == "500"


def test_who_limits_memory_alone_does_not_swap(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, memory_limit_in_bytes=64 * MIB))
    found = limits(daemon, id_)
    assert found.get("memory.memsw.limit_in_bytes", str(64 * MIB)) == str(64 * MIB)
    assert found.get("memory.swap.max", "0") == "0"
    update(daemon, id_, memory_limit_in_bytes=96 * MIB)
    found = limits(daemon, id_)
    assert found.get("memory.memsw.limit_in_bytes", str(96 * MIB)) == str(96 * MIB)
    assert daemon.status(id_).resources.linux.memory_swap_limit_in_bytes == 0


def test_an_update_is_in_force_at_once_and_zero_changes_nothing(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, **FULL))
    update(daemon, id_, cpu_shares=1024, oom_score_adj=-5)
    told = daemon.status(id_).resources.linux
    assert {key: getattr(told, key) for key in FULL} == FULL | {"cpu_shares": 1024}
    before = limits(daemon, id_)
    update(daemon, id_)
    assert limits(daemon, id_) == before
    update(daemon, id_, cpu_quota=-1, memory_limit_in_bytes=128 * MIB, memory_swap_limit_in_bytes=128 * MIB)
    assert limits(daemon, id_).get("cpu.cfs_quota_us", "-1") == "-1"
    assert daemon.status(id_).resources.linux.memory_limit_in_bytes == 128 * MIB


def test_a_refused_update_changes_neither_the_kernel_nor_the_status(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, **FULL))
    before, told = limits(daemon, id_), daemon.status(id_).resources
    more = {"cpu_shares": 77, "memory_limit_in_bytes": 96 * MIB, "memory_swap_limit_in_bytes": 96 * MIB}
    for bad in ({"cpuset_cpus": "4000"}, {"cpuset_mems": "900"}):
        with pytest.raises(grpc.RpcError) as caught:
            update(daemon, id_, **more, **bad)
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert next(iter(bad)).replace("_", ".") in caught.value.details()
        assert limits(daemon, id_) == before
        assert daemon.status(id_).resources == told


BAD: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"cpu_period": -1}, Code.INVALID_ARGUMENT, "cpu_period"),
    ({"cpu_period": 5}, Code.INVALID_ARGUMENT, "cpu_period"),
    ({"cpu_period": 2_000_000}, Code.INVALID_ARGUMENT, "cpu_period"),
    ({"cpu_quota": -2}, Code.INVALID_ARGUMENT, "cpu_quota"),
    ({"cpu_quota": 5}, Code.INVALID_ARGUMENT, "cpu_quota"),
    ({"cpu_shares": -1}, Code.INVALID_ARGUMENT, "cpu_shares"),
    ({"memory_limit_in_bytes": -2}, Code.INVALID_ARGUMENT, "memory_limit_in_bytes"),
    ({"memory_swap_limit_in_bytes": -2}, Code.INVALID_ARGUMENT, "memory_swap_limit_in_bytes"),
    (
        {"memory_limit_in_bytes": 64 * MIB, "memory_swap_limit_in_bytes": MIB},
        Code.INVALID_ARGUMENT,
        "memory_swap_limit_in_bytes",
    ),
    ({"oom_score_adj": 1001}, Code.INVALID_ARGUMENT, "oom_score_adj"),
    ({"oom_score_adj": -1001}, Code.INVALID_ARGUMENT, "oom_score_adj"),
    ({"cpuset_cpus": "x"}, Code.INVALID_ARGUMENT, "cpuset_cpus"),
    ({"cpuset_mems": "0-"}, Code.INVALID_ARGUMENT, "cpuset_mems"),
    ({"hugepage_limits": [("2 MB", 1)]}, Code.INVALID_ARGUMENT, "2 MB"),
    ({"hugepage_limits": [("2MB", 1), ("2MB", 2)]}, Code.INVALID_ARGUMENT, "twice"),
    ({"unified": {"cgroup.procs/": "1"}}, Code.INVALID_ARGUMENT, "cgroup.procs"),
]


@pytest.mark.parametrize(("fields", "code", "word"), BAD)
def test_limits_that_cannot_be(daemon: Any, fields: dict[str, Any], code: grpc.StatusCode, word: str) -> None:
    pod = daemon.run_pod()
    id_ = daemon.run(pod, config=container(daemon))
    before = limits(daemon, id_)
    calls: list[Callable[[], object]] = [
        lambda: daemon.create(pod, container(daemon, **fields)),
        lambda: update(daemon, id_, **fields),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert (caught.value.code(), word in caught.value.details()) == (code, True), caught.value.details()
    assert len(daemon.runtime.ListContainers(cri.ListContainersRequest()).containers) == 1
    assert limits(daemon, id_) == before


def test_cpus_that_the_node_lacks_are_refused_at_the_start(daemon: Any) -> None:
    id_ = daemon.create(daemon.run_pod(), container(daemon, cpuset_cpus="4000"))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert limits(daemon, id_) == {}


@pytest.mark.skipif(not V1, reason="this node has cgroups of version 2")
def test_files_of_version_2_are_refused_on_version_1(daemon: Any) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, unified={"memory.high": "1"}))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert "memory.high" in caught.value.details()


@pytest.mark.skipif(V1, reason="this node has cgroups of version 1")
def test_files_of_version_2_are_written_last(daemon: Any) -> None:
    asked = container(daemon, memory_limit_in_bytes=64 * MIB, unified={"memory.high": str(32 * MIB)})
    id_ = daemon.run(daemon.run_pod(), config=asked)
    directory = HIERARCHY.directory("memory", daemon.cgroup(id_))
    assert Path(f"{directory}/memory.high").read_text().strip() == str(32 * MIB)
    with pytest.raises(grpc.RpcError) as caught:
        update(daemon, id_, unified={"memory.nope": "1"})
    assert caught.value.code() is Code.FAILED_PRECONDITION


def test_a_score_that_this_node_may_not_give_is_as_low_as_it_can_be(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, oom_score_adj=-998))
    found = int(daemon.exec(id_, "cat", "/proc/1/oom_score_adj"))
    if capabilities.bounding_set() >> capabilities.parse("SYS_RESOURCE") & 1:
        assert found == -998
    else:
        assert found == int(Path("/proc/self/oom_score_adj").read_text())
        assert "oom_score_adj is" in (daemon.scratch / "daemon.log").read_text()
    assert daemon.status(id_).resources.linux.oom_score_adj == -998
