"""What a node with cgroup v2 alone gives a container, by either driver."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy, systemd
from shim.kernel import proc

HIERARCHY = hierarchy.detect(proc.mountinfo())
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(HIERARCHY.v1), reason="this node has cgroups of version 1"),
]
by_systemd = pytest.mark.skipif(not systemd.is_init(), reason="systemd is not the first process here")

MIB = 1 << 20
EAT = "x=a; while true; do x=$x$x; done"


def limited(daemon: Any, *command: str, **unified: str) -> cri.ContainerConfig:
    config = daemon.container_config(*command)
    config.linux.resources.memory_limit_in_bytes = 48 * MIB
    config.linux.resources.memory_swap_limit_in_bytes = 48 * MIB
    config.linux.resources.unified.update({name.replace("__", "."): value for name, value in unified.items()})
    return config


def file_of(daemon: Any, id_: str, name: str) -> str:
    return Path(f"{HIERARCHY.unified}{daemon.cgroup(id_)}/{name}").read_text().strip()


def test_a_container_sees_its_own_cgroup_as_the_root_and_cannot_change_it(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=limited(daemon, pids__max="50", memory__oom__group="1"))
    assert daemon.exec(id_, "cat", "/sys/fs/cgroup/memory.max").strip() == str(48 * MIB)
    assert daemon.exec(id_, "cat", "/sys/fs/cgroup/pids.max").strip() == "50"
    assert file_of(daemon, id_, "memory.oom.group") == "1"
    (where,) = Path(f"/proc/{daemon.pid(id_)}/cgroup").read_text().split()
    assert where == f"0::{daemon.cgroup(id_)}"
    assert daemon.exec(id_, "cat", "/proc/1/cgroup") == "0::/\n"
    script = "echo max >/sys/fs/cgroup/pids.max || busybox mkdir /sys/fs/cgroup/x || echo refused"
    assert daemon.exec(id_, "sh", "-c", script) == "refused\n"
    assert file_of(daemon, id_, "pids.max") == "50"


def test_an_exec_is_in_a_cgroup_of_its_own_that_goes_with_it(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=limited(daemon, "sleep", "1000"))
    assert daemon.exec(id_, "cat", "/proc/self/cgroup").startswith("0::/exec-")
    directory = Path(f"{HIERARCHY.unified}{daemon.cgroup(id_)}")
    daemon.until(lambda: not list(directory.glob("exec-*")))
    assert file_of(daemon, id_, "cgroup.subtree_control") == ""


@pytest.mark.parametrize("together", [False, True])
def test_a_group_is_killed_together_if_that_was_asked_for(daemon: Any, *, together: bool) -> None:
    script = f"(while [ ! -e /tmp/go ]; do sleep 1; done; {EAT}) & wait; echo alive; exec sleep 1000"
    config = limited(daemon, "sh", "-c", script, memory__oom__group=str(int(together)))
    id_ = daemon.run(daemon.run_pod(), config=config)
    daemon.exec(id_, "busybox", "touch", "/tmp/go")
    if together:
        status = daemon.wait(id_)
        assert (status.exit_code, status.reason) == (137, "OOMKilled")
    else:
        daemon.until(lambda: daemon.output(id_) == ["alive"])
        assert daemon.status(id_).state == cri.CONTAINER_RUNNING


def test_an_exec_that_eats_all_memory_counts_for_its_container(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=limited(daemon, "sleep", "1000", memory__oom__group="1"))
    with contextlib.suppress(grpc.RpcError):  # its container may be gone before its answer
        daemon.exec(id_, "sh", "-c", f"{EAT}; true")
    status = daemon.wait(id_)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_what_is_used_is_told(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=limited(daemon, "sleep", "1000"))
    stats = daemon.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=id_)).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert 0 < stats.memory.working_set_bytes.value <= stats.memory.usage_bytes.value <= 48 * MIB


def test_a_removed_container_leaves_no_cgroup(daemon: Any) -> None:
    pod = daemon.run_pod()
    id_ = daemon.run(pod)
    directory = Path(f"{HIERARCHY.unified}{daemon.cgroup(id_)}")
    assert directory.is_dir()
    daemon.remove(pod[0])
    assert not directory.exists()


def test_containers_of_a_pod_that_shares_its_processes(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.pid = cri.POD
    pod = daemon.run_pod(config)
    asked = daemon.container_config()
    asked.linux.security_context.namespace_options.pid = cri.POD
    id_ = daemon.run(pod, config=asked)
    assert file_of(daemon, pod[0], "cgroup.procs")
    assert daemon.exec(id_, "cat", "/proc/self/cgroup").startswith("0::/exec-")
    daemon.remove(pod[0])
    assert not os.path.exists(f"{HIERARCHY.unified}{daemon.cgroup(pod[0])}")


@by_systemd
def test_a_kubelets_slice_holds_the_scopes_of_its_pod(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.cgroup_parent = "/crishimtest.slice/crishimtest-burstable.slice"
    pod = daemon.run_pod(config)
    id_ = daemon.run(pod, config=limited(daemon, "sleep", "1000", memory__high=str(40 * MIB)))
    scope = f"cri-shim-{id_}.scope"
    directory = Path(f"/sys/fs/cgroup/{config.linux.cgroup_parent}/{scope}")
    assert (directory / "cgroup.procs").read_text().split() == [str(daemon.pid(id_))]
    daemon.restart()
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "daemon-reexec"], check=True)
    assert (directory / "memory.max").read_text().strip() == str(48 * MIB)
    assert (directory / "memory.high").read_text().strip() == str(40 * MIB)
    assert daemon.exec(id_, "echo", "in") == "in\n"
    more = cri.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=64 * MIB)
    daemon.runtime.UpdateContainerResources(cri.UpdateContainerResourcesRequest(container_id=id_, linux=more))
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert (directory / "memory.max").read_text().strip() == str(64 * MIB)
    daemon.remove(pod[0])
    assert not directory.exists()
    shown = subprocess.run(["systemctl", "show", scope], check=True, capture_output=True, text=True).stdout
    assert "LoadState=not-found" in shown
    subprocess.run(["systemctl", "stop", "crishimtest.slice"], check=True)
