"""What only a kubelet relies on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import systemd

pytestmark = pytest.mark.root


def test_versions_and_driver(daemon: Any) -> None:
    version = daemon.runtime.Version(cri.VersionRequest())
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "cri-shim", "v1")
    config = daemon.runtime.RuntimeConfig(cri.RuntimeConfigRequest())
    assert config.linux.cgroup_driver == (cri.SYSTEMD if systemd.is_init() else cri.CGROUPFS)
    status = daemon.runtime.Status(cri.StatusRequest(verbose=True))
    assert {c.type: c.status for c in status.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert {handler.name for handler in status.runtime_handlers} == {"", "cri-shim"}


def test_a_pod_is_told_as_it_was_asked_for(daemon: Any) -> None:
    config = daemon.pod_config()
    config.labels["a"] = "b"
    config.annotations["c"] = "d"
    id_, _ = daemon.run_pod(config)
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=id_[:12])).status
    assert status.id == id_
    assert status.linux.namespaces.options == config.linux.security_context.namespace_options
    assert status.network.ip
    assert not status.network.ip.startswith("127.")
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "b"}, {"c": "d"})
    listed = daemon.runtime.ListPodSandbox(
        cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector={"a": "b"}))
    ).items
    assert [item.id for item in listed] == [id_]


def test_a_pod_on_the_host_network_has_no_address_and_no_clash(daemon: Any) -> None:
    mapping = cri.PortMapping(container_port=80, host_port=18090)
    for _ in range(2):
        config = daemon.pod_config(port_mappings=[mapping])
        config.linux.security_context.namespace_options.network = cri.NODE
        id_, _ = daemon.run_pod(config)
        status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=id_)).status
        assert status.network.ip == ""
    daemon.run_pod(daemon.pod_config(port_mappings=[cri.PortMapping(container_port=80, host_port=0)]))


def test_a_host_port_leads_to_the_pod(daemon: Any) -> None:
    mapping = cri.PortMapping(container_port=8080, host_port=18091)
    pod = daemon.run_pod(daemon.pod_config(port_mappings=[mapping]))
    id_ = daemon.run(pod, "busybox", "nc", "-l", "-p", "8080", "-e", "hostname")
    daemon.until(lambda: ":1F90" in daemon.exec(id_, "sh", "-c", "cat /proc/net/tcp*"))
    talk = "busybox nc -w 20 127.0.0.1 18091 </dev/null"
    assert daemon.in_netns("sh", "-c", talk).stdout.strip() == pod[1].hostname


def test_nothing_of_ours_is_inherited(daemon: Any) -> None:
    config = daemon.container_config("sleep", "1000")
    config.envs.add(key="RAW", value=b"\xff\xfe")
    id_ = daemon.run(daemon.run_pod(), config=config)
    status = daemon.exec(id_, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["SigBlk"], fields["SigIgn"]) == ("0" * 16, "0" * 16)
    assert fields["Umask"] == "0022"
    assert daemon.exec(id_, "cat", "/proc/1/stat").rsplit(")", 1)[1].split()[16] == "0"  # nice
    assert sorted(daemon.exec(id_, "ls", "/proc/1/fd").split()) == ["0", "1", "2"]
    raw = daemon.runtime.ExecSync(
        cri.ExecSyncRequest(container_id=id_, cmd=["cat", "/proc/1/environ"])
    ).stdout
    assert b"RAW=\xff\xfe\0" in raw
    assert b"VIRTUAL_ENV" not in raw


def test_the_status_outlives_process_and_image(daemon: Any) -> None:
    config = daemon.container_config("sh", "-c", "echo why > /dev/termination-log; exit 3")
    file = daemon.scratch / "termination-log"
    file.touch()
    config.mounts.add(container_path="/dev/termination-log", host_path=str(file))
    id_ = daemon.run(daemon.run_pod(), config=config)
    status = daemon.wait(id_)
    assert (status.exit_code, status.reason, file.read_text()) == (3, "Error", "why\n")
    assert list(status.mounts) == list(config.mounts)
    assert os.path.isabs(status.log_path)
    assert status.image.image
    assert status.image_ref
    daemon.restart()
    assert daemon.status(id_) == status


def test_out_of_memory_is_told_apart_from_a_kill(daemon: Any) -> None:
    pod = daemon.run_pod()
    config = daemon.container_config("dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1")
    config.linux.resources.memory_limit_in_bytes = 32 << 20
    config.linux.resources.memory_swap_limit_in_bytes = 32 << 20
    status = daemon.wait(daemon.run(pod, config=config))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    killed = daemon.run(pod)
    daemon.stop(killed)
    assert (daemon.status(killed).exit_code, daemon.status(killed).reason) == (137, "Error")


def test_a_second_stop_shortens_the_first(daemon: Any) -> None:
    id_ = daemon.run(
        daemon.run_pod(), "sh", "-c", "trap 'echo asked' TERM; echo ready; while true; do usleep 10000; done"
    )
    daemon.until(lambda: daemon.output(id_) == ["ready"])
    begin = time.monotonic()
    first = threading.Thread(target=daemon.stop, args=(id_, 60))
    first.start()
    daemon.until(lambda: daemon.output(id_) == ["ready", "asked"])
    daemon.stop(id_, 0)
    first.join(20)
    assert time.monotonic() - begin < 50
    assert daemon.status(id_).exit_code == 137
    assert daemon.output(id_) == ["ready", "asked"]


def test_a_log_is_reopened_where_it_was(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), "sh", "-c", "while true; do echo x; usleep 5000; done")
    path = Path(daemon.status(id_).log_path)
    daemon.until(lambda: path.exists() and path.stat().st_size > 0)
    path.rename(f"{path}.1")
    daemon.runtime.ReopenContainerLog(cri.ReopenContainerLogRequest(container_id=id_))
    assert path.exists()
    daemon.until(lambda: path.stat().st_size > 0)


def test_an_exec_that_takes_too_long_is_killed_with_its_children(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod())
    with pytest.raises(grpc.RpcError) as caught:
        daemon.exec(id_, "sh", "-c", "sleep 77 & sleep 77", timeout=1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    script = "for p in /proc/[0-9]*/cmdline; do busybox tr '\\0' ' ' < $p; echo; done"
    daemon.until(lambda: "sleep 77" not in daemon.exec(id_, "sh", "-c", script))


def test_an_exec_does_not_wait_for_what_it_leaves_behind(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod())
    begin = time.monotonic()
    assert daemon.exec(id_, "sh", "-c", "sleep 30 & echo done") == "done\n"
    assert time.monotonic() - begin < 20


def test_file_systems_exist(daemon: Any) -> None:
    info = daemon.images.ImageFsInfo(cri.ImageFsInfoRequest())
    for each in [*info.image_filesystems, *info.container_filesystems]:
        assert os.path.isdir(each.fs_id.mountpoint)
    assert all(image.size > 0 for image in daemon.images.ListImages(cri.ListImagesRequest()).images)


def test_the_last_words_are_in_the_log_when_the_end_is_told(daemon: Any) -> None:
    """A kubelet takes them for the termination message, once."""
    pod = daemon.run_pod()
    (logger,) = daemon.pids_of("shim.supervisor.logger")
    id_ = daemon.run(pod, "sh", "-c", "while [ ! -e /tmp/go ]; do usleep 10000; done; echo last; exit 3")
    pid = daemon.pid(id_)
    os.kill(logger, signal.SIGSTOP)
    try:
        Path(f"/proc/{pid}/root/tmp/go").touch()
        daemon.until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert {daemon.status(id_).state for _ in range(20)} == {cri.CONTAINER_RUNNING}
    finally:
        os.kill(logger, signal.SIGCONT)
    daemon.until(lambda: daemon.status(id_).state == cri.CONTAINER_EXITED)
    assert daemon.output(id_) == ["last"]
