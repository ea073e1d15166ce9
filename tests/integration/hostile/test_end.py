"""What a container holds is let go of at its end, and what the node lets go of is held by nobody."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import mount
from tests.integration.hostile.conftest import Den
from tests.integration.socket.conftest import HIERARCHY

pytestmark = pytest.mark.root


def directories(daemon: Any, id_: str) -> list[str]:
    return [
        top + daemon.cgroup(id_) for top in HIERARCHY.mounts() if os.path.exists(top + daemon.cgroup(id_))
    ]


@pytest.mark.parametrize("shared", [False, True])
def test_processes_that_hold_everything_busy_end_with_their_container(
    den: Den, daemon: Any, tmp_path: Path, *, shared: bool
) -> None:
    """They ignore signals, leave sessions and namespaces, and have files, directories and mounts open."""
    mode = cri.POD if shared else cri.CONTAINER
    before = daemon.settled()
    for hold in ("/tmp", "/v"):
        pod = den.shared_pod() if shared else daemon.run_pod()
        config = den.config("evil", "hold", hold, pid=mode)
        config.mounts.add(container_path="/v", host_path=str(tmp_path))
        config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Unconfined
        id_ = daemon.run(pod, config=config)
        den.until_said(id_, "holding")
        other = daemon.run(pod, config=den.config("sleep", "1000", pid=mode))
        daemon.stop(id_, timeout=1)
        assert daemon.status(id_).exit_code in (137, 143)
        daemon.until(
            lambda id_=id_: not any(Path(f"{at}/cgroup.procs").read_text() for at in directories(daemon, id_))
        )
        assert daemon.exec(other, "echo", "alive") == "alive\n"
        daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id_))
        assert directories(daemon, id_) == []
        daemon.remove(pod[0])
        daemon.until_again(before)
    assert sorted(os.listdir(tmp_path)) == [f"held-{number}" for number in range(8)]


BUSY = """
mount -o remount,rw,bind /sys/fs/cgroup
for d in $(ls -d /sys/fs/cgroup/*/ /sys/fs/cgroup/); do
    mkdir -p $d/evil/deep 2>/dev/null || continue
    for n in cpus mems; do
        busybox cat $d/cpuset.$n >$d/evil/cpuset.$n; busybox cat $d/cpuset.$n >$d/evil/deep/cpuset.$n
    done
    (evil hold /tmp & echo $! >$d/evil/deep/cgroup.procs; echo $! >$d/evil/cgroup.procs)
    echo FROZEN >$d/evil/freezer.state
    echo 1 >$d/evil/cgroup.freeze
done 2>/dev/null
echo busy
exec sleep 1000
"""


def test_a_container_that_may_write_its_cgroup_cannot_keep_it(den: Den, daemon: Any) -> None:
    """It makes cgroups below its own, moves processes there, and freezes them: so they do not die."""
    config = daemon.pod_config()
    config.linux.security_context.privileged = True
    pod = daemon.run_pod(config)
    asked = den.config("sh", "-c", BUSY)
    asked.linux.security_context.privileged = True
    if not HIERARCHY.v1:  # there it would see the node's tree
        asked.linux.security_context.privileged = False
        asked.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")
        asked.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Unconfined
    id_ = daemon.run(pod, config=asked)
    daemon.until(lambda: "busy" in daemon.output(id_))
    made = [
        Path(at, below, "cgroup.procs") for at in directories(daemon, id_) for below in ("evil", "evil/deep")
    ]
    assert any(path.exists() and path.read_text() for path in made), "it could not do what it wants"
    daemon.stop(id_)
    assert daemon.status(id_).exit_code == 137
    daemon.remove(pod[0])
    daemon.until(lambda: directories(daemon, id_) == [])


class Device:
    """A file system of the node that says when nobody holds it any more: its server is told."""

    def __init__(self, point: Path) -> None:
        point.mkdir()
        self.point = point
        self.server = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        options = f"fd={self.server},rootmode=40000,user_id=0,group_id=0"
        mount.mount("device", str(point), "fuse", 0, options)

    def held(self) -> bool:
        poll = select.poll()
        poll.register(self.server, select.POLLIN)
        return not any(events & select.POLLERR for _, events in poll.poll(0))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount that tells others of mounts below it, as a node's / does."""
    path = tmp_path / "shared"
    path.mkdir()
    mount.mount("shared", str(path), "tmpfs")
    mount.mount(None, str(path), None, mount.MS_SHARED)
    yield path
    mount.umount(str(path), mount.MNT_DETACH)


def test_what_the_node_unmounts_is_held_by_nobody(den: Den, daemon: Any, shared: Path) -> None:
    """Whether it was mounted before or after; in pods of every kind, that start, run, and are entered."""
    before = Device(shared / "before")
    (shared / "data").mkdir()
    pods = [daemon.run_pod(), den.shared_pod(), daemon.run_pod(host_network(daemon))]
    running = []
    for pod in pods:
        for propagation in (cri.PROPAGATION_PRIVATE, cri.PROPAGATION_HOST_TO_CONTAINER):
            config = den.config("sleep", "1000", pid=cri.POD if pod is pods[1] else cri.CONTAINER)
            config.mounts.add(container_path="/v", host_path=str(shared / "data"))
            if propagation is not cri.PROPAGATION_PRIVATE:
                config.mounts.add(container_path="/s", host_path=str(shared), propagation=propagation)
            running.append(daemon.run(pod, config=config))
    after = Device(shared / "after")
    for id_ in running:
        daemon.exec(id_, "true")
    daemon.run(pods[0], config=den.config("sleep", "1000"))
    daemon.restart()
    assert before.held()
    assert after.held()
    for device in (before, after):
        mount.umount(str(device.point))
    daemon.until(lambda: not before.held() and not after.held())
    for id_ in running:
        assert daemon.exec(id_, "echo", "alive") == "alive\n"
    for device in (before, after):
        os.close(device.server)


def host_network(daemon: Any) -> cri.PodSandboxConfig:
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.network = cri.NODE
    return config
