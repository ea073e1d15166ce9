"""What is told of a broken pod: the last line names the cause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import Daemon, running, scratch_directory

pytestmark = pytest.mark.root

PLUGIN = """#!/bin/sh
case $CNI_COMMAND in
  ADD) echo '{"cniVersion": "1.0.0", "code": 11, "msg": "the switch is on fire"}'; exit 1 ;;
  VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(
        scratch_directory(), "--set=registry.connect_timeout_s=1", "--set=seccomp.log_denials=true"
    ) as it:
        yield it


def last_line(daemon: Daemon, subject: str) -> str:
    return daemon.command("why", subject).splitlines()[-1]


def pull(daemon: Daemon, image: str) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        daemon.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=image)))
    return refused.value


def test_a_dead_registry_is_named_with_the_stage(daemon: Daemon) -> None:
    error = pull(daemon, "127.0.0.1:1/app/web:1")
    assert error.details().endswith("(stage: resolve)")
    line = last_line(daemon, "127.0.0.1:1/app/web:1")
    assert line.startswith("PullImage failed at stage 'resolve'")
    assert "127.0.0.1:1" in line


def test_a_missing_program_is_named_by_pod_and_by_container(daemon: Daemon) -> None:
    pod = daemon.run_pod()
    container = daemon.create(pod, daemon.container_config("/no/such/program"))
    with pytest.raises(grpc.RpcError):
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=container))
    for subject in (container[:12], pod[1].metadata.name, f"{pod[1].metadata.name}/main"):
        line = last_line(daemon, subject)
        assert line.startswith("StartContainer failed at stage 'process'")
        assert "/no/such/program" in line
    answer = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container, verbose=True))
    told = json.loads(answer.info["info"])["timeline"]
    assert [each["what"] for each in told] == ["CreateContainer", "StartContainer"]
    assert "process" in told[1]["stages"]


def test_the_oom_killer_is_named_with_the_limit(daemon: Daemon) -> None:
    pod = daemon.run_pod()
    config = daemon.container_config("sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M")
    config.linux.resources.memory_limit_in_bytes = 20 << 20
    container = daemon.run(pod, config=config)
    assert daemon.wait(container).reason == "OOMKilled"
    assert "its memory limit of 20971520 bytes" in last_line(daemon, container)


def test_a_stop_that_had_to_kill_is_told(daemon: Daemon) -> None:
    container = daemon.run(
        daemon.run_pod(), "sh", "-c", "trap '' TERM; echo ready; while :; do usleep 10000; done"
    )
    daemon.until(lambda: daemon.output(container))
    daemon.stop(container, 1)
    assert last_line(daemon, container).endswith("it had not ended 1 s after SIGTERM")


@pytest.mark.parametrize("end", ["sleep 1; done", "exit 3; done"], ids=["alive", "ended"])
def test_a_denied_system_call_is_told_by_name(daemon: Daemon, tmp_path: Path, end: str) -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the kernel's log cannot be read here")
    # The shell itself makes the call: of a child that is gone at once the kernel's record names nobody.
    config = daemon.container_config("sh", "-c", f"while ! kill -0 $$; do {end}")
    profile = tmp_path / "profile.json"
    rule = {"names": ["kill"], "action": "SCMP_ACT_ERRNO"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Localhost
    config.linux.security_context.seccomp.localhost_ref = str(profile)
    pod = daemon.run_pod()

    def told() -> bool:  # the kernel writes some ten records in five seconds and drops the others
        config.metadata.attempt += 1
        container = daemon.run(pod, config=config)
        time.sleep(1)
        printed = daemon.command("why", container)
        daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container))
        return "its seccomp profile does not allow 'sh' the system call kill" in printed

    daemon.until(told)


def test_a_network_plugin_that_fails_is_quoted() -> None:
    scratch = scratch_directory()
    for directory in ("bin", "net.d"):
        (scratch / directory).mkdir()
    plugin = scratch / "bin/broken"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    with running(scratch, f'--set=network.cni_bin_dirs=["{scratch}/bin"]') as node:
        conf = {"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "broken"}]}
        (scratch / "net.d/10-broken.conflist").write_text(json.dumps(conf))
        config = node.pod_config()
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as refused:
                node.run_pod(config)
        assert "(stage: network cni" in refused.value.details()
        line = last_line(node, config.metadata.name)
        assert line.startswith("RunPodSandbox failed at stage 'network cni")
        assert "the switch is on fire" in line
        (scratch / "net.d/10-broken.conflist").unlink()


def test_a_full_disk_is_told(daemon: Daemon) -> None:
    pod = daemon.run_pod()
    logs = daemon.scratch / "full"
    logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "none", str(logs)], check=True)
    try:
        config = daemon.pod_config()
        config.log_directory = str(logs / "pod")
        with pytest.raises(grpc.RpcError) as refused:
            daemon.run_pod(config)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        line = last_line(daemon, config.metadata.name)
        assert line.startswith("RunPodSandbox failed at stage 'files'")
        assert "No space left" in line
    finally:
        subprocess.run(["umount", str(logs)], check=True)
    daemon.remove(pod[0])


def test_it_is_known_after_a_kill_and_a_restart(daemon: Daemon) -> None:
    error = pull(daemon, "127.0.0.1:1/before/restart:1")
    journal = daemon.root / "journal/current"
    daemon.until(lambda: journal.exists() and b"before/restart" in journal.read_bytes())
    daemon.restart()
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "RegistryUnavailable" in error.details()
    assert "127.0.0.1:1" in last_line(daemon, "127.0.0.1:1/before/restart:1")


def test_no_secret_is_told(daemon: Daemon) -> None:
    auth = cri.AuthConfig(username="u", password="s3cret-w0rd")
    image = cri.ImageSpec(image="127.0.0.1:1/secret/app:1")
    with pytest.raises(grpc.RpcError):
        daemon.images.PullImage(cri.PullImageRequest(image=image, auth=auth))
    config = daemon.container_config("/no/such/program")
    config.envs.append(cri.KeyValue(key="TOKEN", value=b"s3cret-w0rd"))
    container = daemon.create(daemon.run_pod(), config)
    with pytest.raises(grpc.RpcError):
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=container))
    assert "StartContainer" in daemon.command("why", container)
    for path in (daemon.root / "journal").iterdir():
        assert b"s3cret" not in path.read_bytes()


def test_what_nobody_knows_is_one_sentence(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shim", "why", "--socket", str(daemon.socket), "nobody/knows"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: pod, container or image 'nobody/knows' not found\n"


def test_a_call_that_went_well_shows_its_stages(daemon: Daemon) -> None:
    pod = daemon.run_pod()
    text = daemon.command("why", "--stages", pod[0])
    for stage in ("RunPodSandbox", "files", "namespaces", "network builtin", "record"):
        assert stage in text
    assert text.splitlines()[-1].startswith("nothing went wrong")
