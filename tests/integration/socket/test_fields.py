"""What fields of the Linux parts do, where no module of their own tells it: ``docs/fields.md`` has all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy, systemd
from shim.kernel import cgroupfs, proc

pytestmark = pytest.mark.root

HIERARCHY = hierarchy.detect(proc.mountinfo())
MIB = 1 << 20


def told(daemon: Any, pod: str) -> dict[str, Any]:
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
    info: dict[str, Any] = json.loads(daemon.runtime.PodSandboxStatus(request).info["info"])
    return info


@pytest.fixture
def kubelets(daemon: Any) -> Iterator[str]:
    """The cgroup of a pod, made by a kubelet."""
    path = f"{daemon.parent}-kubelet/pod1"
    for mount in HIERARCHY.mounts():
        os.makedirs(os.path.dirname(mount + path))
        if not HIERARCHY.v1:
            cgroupfs.write(os.path.dirname(mount + path) + "/cgroup.subtree_control", "+cpu +memory +pids")
        os.mkdir(mount + path)
    yield path
    daemon.remove_all()
    for mount in HIERARCHY.mounts():
        os.rmdir(mount + path)
        os.rmdir(os.path.dirname(mount + path))


@pytest.mark.skipif(systemd.is_init(), reason="systemd makes the cgroups of this node")
def test_the_cgroup_of_the_kubelet_holds_the_pods_and_is_never_written(daemon: Any, kubelets: str) -> None:
    def files() -> dict[str, str]:
        found = {}
        for name in ("cpu.shares", "cpu.weight", "memory.limit_in_bytes", "memory.max", "pids.max"):
            directory = HIERARCHY.directory(name.partition(".")[0], kubelets)
            if directory is not None and os.path.exists(f"{directory}/{name}"):
                found[name] = cgroupfs.read(f"{directory}/{name}").strip()
        return found

    before = files()
    config = daemon.pod_config()
    config.linux.cgroup_parent = kubelets
    config.linux.resources.cpu_shares = 77
    config.linux.resources.memory_limit_in_bytes = 512 * MIB
    config.linux.overhead.memory_limit_in_bytes = MIB
    pod = daemon.run_pod(config)
    id_ = daemon.run(pod)
    assert f":{kubelets}/{id_}\n" in Path(f"/proc/{daemon.pid(id_)}/cgroup").read_text()
    linux = cri.LinuxContainerResources(cpu_shares=99)
    daemon.runtime.UpdatePodSandboxResources(
        cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod[0], resources=linux)
    )
    assert before
    assert files() == before
    daemon.remove(pod[0])
    assert files() == before


def test_limits_of_a_pod_are_told_as_they_are_now(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.resources.cpu_shares = 77
    config.linux.overhead.memory_limit_in_bytes = MIB
    pod = daemon.run_pod(config)[0]
    assert told(daemon, pod)["resources"]["cpu"] == {"shares": 77}
    assert told(daemon, pod)["overhead"]["memory"] == {"limit": MIB}
    request = cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod)
    request.resources.cpu_shares = 99
    daemon.runtime.UpdatePodSandboxResources(request)
    daemon.restart()
    now = told(daemon, pod)
    assert (now["resources"]["cpu"], now["overhead"]["memory"]) == ({"shares": 99}, {"limit": MIB})
    assert now["config"]["linux"]["resources"] == {"cpu_shares": "77"}
    request.resources.cpu_shares = -1
    with pytest.raises(grpc.RpcError) as caught:
        daemon.runtime.UpdatePodSandboxResources(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "resources.cpu_shares" in (caught.value.details() or "")
    assert told(daemon, pod)["resources"]["cpu"] == {"shares": 99}


def test_whom_a_sandbox_would_run_as_is_told_and_binds_no_container(daemon: Any) -> None:
    config = daemon.pod_config()
    security = config.linux.security_context
    security.run_as_user.value, security.run_as_group.value = 1000, 1001
    security.supplemental_groups.append(7)
    security.supplemental_groups_policy = cri.Strict
    security.readonly_rootfs = True
    security.seccomp.profile_type = cri.SecurityProfile.Unconfined
    security.apparmor.profile_type = cri.SecurityProfile.RuntimeDefault
    pod = daemon.run_pod(config)
    answer = told(daemon, pod[0])["config"]["linux"]["security_context"]
    assert (answer["run_as_user"], answer["run_as_group"]) == ({"value": "1000"}, {"value": "1001"})
    assert (answer["supplemental_groups"], answer["supplemental_groups_policy"]) == (["7"], "Strict")
    assert (answer["readonly_rootfs"], answer["seccomp"]) == (True, {"profile_type": "Unconfined"})
    id_ = daemon.run(pod)
    assert daemon.exec(id_, "sh", "-c", "echo $(id -u) $(id -G); touch /here && echo written").split() == [
        *("0", "0", "written")
    ]


def namespaces(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")}


MODES = {
    "all of the pod": ({"pid": cri.POD}, {"net", "ipc", "uts", "pid"}, set()),
    "own processes": ({"pid": cri.CONTAINER}, {"net", "ipc", "uts"}, set()),
    "the node's processes": ({"pid": cri.NODE}, {"net", "ipc", "uts", "pid"}, {"pid"}),
    "the node's network": (
        {"pid": cri.CONTAINER, "network": cri.NODE},
        {"net", "ipc", "uts"},
        {"net", "uts"},
    ),
    "the node's ipc": ({"pid": cri.CONTAINER, "ipc": cri.NODE}, {"net", "ipc", "uts"}, {"ipc"}),
    "all of the node": (
        {"pid": cri.NODE, "ipc": cri.NODE, "network": cri.NODE},
        {"net", "ipc", "uts", "pid"},
        {"net", "ipc", "uts", "pid"},
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_whose_namespaces_a_container_is_in(daemon: Any, name: str) -> None:
    modes, shared, of_node = MODES[name]
    config = daemon.pod_config()
    for kind, mode in modes.items():
        setattr(config.linux.security_context.namespace_options, kind, mode)
    pod = daemon.run_pod(config)
    asked = daemon.container_config()
    asked.linux.security_context.namespace_options.CopyFrom(config.linux.security_context.namespace_options)
    silent = daemon.container_config()
    silent.linux.security_context.ClearField("namespace_options")
    one, two = (namespaces(daemon.pid(daemon.run(pod, config=each))) for each in (asked, silent))
    node = namespaces(daemon.process.pid)
    assert {kind for kind in one if one[kind] == two[kind]} == shared
    assert {kind for kind in one if one[kind] == node[kind]} == of_node
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0])).status
    assert status.linux.namespaces.options == config.linux.security_context.namespace_options


HUGE = sorted(
    name.removeprefix("hugepages-").removesuffix("kB") for name in os.listdir("/sys/kernel/mm/hugepages")
)


@pytest.mark.skipif(
    not HUGE or HIERARCHY.directory("hugetlb", "/") is None, reason="this node has no cgroups for huge pages"
)
def test_huge_pages_are_limited(daemon: Any) -> None:
    config = daemon.container_config()
    sizes = {}
    for kib in map(int, HUGE):
        size = f"{kib >> 20}GB" if kib >= MIB else f"{kib >> 10}MB"
        sizes[size] = 3 * kib << 10
        config.linux.resources.hugepage_limits.add(page_size=size, limit=sizes[size])
    id_ = daemon.run(daemon.run_pod(), config=config)
    directory = HIERARCHY.directory("hugetlb", daemon.cgroup(id_))
    suffix = "limit_in_bytes" if HIERARCHY.v1 else "max"
    for size, limit in sizes.items():
        assert Path(f"{directory}/hugetlb.{size}.{suffix}").read_text().strip() == str(limit)
    told_limits = daemon.status(id_).resources.linux.hugepage_limits
    assert {each.page_size: each.limit for each in told_limits} == sizes


def test_a_device_may_take_the_place_of_a_default_one(daemon: Any) -> None:
    config = daemon.container_config()
    config.devices.add(container_path="/dev/full", host_path="/dev/zero", permissions="rw")
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.exec(id_, "sh", "-c", "echo x > /dev/full && echo written") == "written\n"


def test_a_memory_limit_that_nothing_fits_in_is_told_as_what_it_is(daemon: Any) -> None:
    config = daemon.container_config()
    config.linux.resources.memory_limit_in_bytes = 4096
    id_ = daemon.create(daemon.run_pod(), config)
    with contextlib.suppress(grpc.RpcError):  # with version 2 it is born in there, and may end that early
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    status = daemon.wait(id_)
    assert status.reason == "OOMKilled" or "memory" in status.message
